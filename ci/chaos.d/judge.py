"""What must be so: compares the world with what was done, and lets a bounded time pass for it."""

import collections
import itertools
import os
import time

from world import Lines, lock_holder

# Longest time for anything to settle.
LIMIT = 10.0
# What these leave ignores TERM for 5 s, more than once. They need not be waited for after
# each step.
SLOW, SLOW_LIMIT = "deaf-forker", 30.0
START_NS = 300_000_000      # config_start_sec of the fickle ones
# A worker may hear that late, on a busy machine, that the program runs which it counts from.
SLACK_NS = 150_000_000


class Violation(Exception):
    """Something that must never be."""


class Service:
    """What is known and expected of one service."""

    def __init__(self, kind):
        self.kind = kind
        self.is_up = False          # what it was last told to be
        self.base = 0               # runs before it was last started
        self.started = 0            # when it was last asked to start, which forgets failures
        self.killed = {}            # run key: when, by the test
        self.was_asked = False      # something may still end it that was asked for before
        self.since = 0.0            # when it was first not waited for
        self.unborn = -1            # how many runs had ended when a command may have ended
                                    # another one before it could tell of its birth
        self.lost_keeper = False    # a keeper has died since
        # At the last moment when all was as it must be:
        self.alive, self.count = [], 0
        # At the moment when status was right about it: raised, runs, living runs.
        self.seen = (0, 0, [])


class Judge:
    """Keeps the expectations, and says when one is not met."""

    def __init__(self, world, kinds, status):
        self.world, self.status = world, status
        self.services = {name: Service(kind) for name, kind in kinds.items()}
        self.lines = {n: Lines(world, n) for n, kind in kinds.items() if "chatty" in kind}
        self.deaths = collections.Counter()
        self.dead = set()           # who was killed since all was as it must be,
        self.dead_before = set()    # and in the step before
        self.longest = 0.0
        self.state = f"{world.top}/p/.reraise-{os.getuid()}"

    def worker(self, name):
        return lock_holder(f"{self.state}/s/{name}/lock")

    def keeper(self):
        return lock_holder(f"{self.state}/keeper.lock")

    def logger(self):
        return lock_holder(f"{self.state}/logger.lock")

    def dies(self, role, name=""):
        """Somebody is about to be killed."""
        self.dead.add((role, name if role == "worker" else ""))
        if role == "keeper":
            for service in self.services.values():
                service.lost_keeper = True

    def may_lose_lines(self, name):
        """What stands in the pipe of a service that ends is gone when nobody else has it: its
        worker and the logger were killed as well. A new logger may not yet have come to it."""
        return ("worker", name) in self.dead and ("logger", "") in self.dead | self.dead_before

    # -- settling -----------------------------------------------------------------------

    def settle(self, commands, unwatched=False):
        """Waits until all is as it must be after these commands, and fails when it never is.
        The services that nobody can say of whether they are to run."""
        wishes = {name: self.wish(name, commands) for name in self.services}
        for command in commands:
            for name in command.names if command.words[0] == "start" else ():
                self.services[name].started = command.begun
        begun = time.monotonic()
        left, reasons, last_status = set(self.services), {}, 0.0
        stopped = {n for n, verbs in self.verbs(commands).items() if verbs == {"stop"}
                   and all(c.code == 0 and not c.is_quick for c in commands if n in c.names)}
        while True:
            now = time.monotonic()
            self.world.read_journals()
            self.check_journals()
            processes = self.world.processes()
            by_name = collections.defaultdict(list)
            for process in processes:
                by_name[process.name].append(process)
            for name in stopped:
                what = [p for p in by_name[name] if p.role == "service"]
                if what:
                    raise Violation(f"{name}: stop has returned, and it lives: {what}")
            stopped = ()
            reasons = {n: self.process_trouble(n, wishes[n], by_name[n], unwatched) for n in left}
            common = self.common_trouble(processes, unwatched)
            good = {name for name, why in reasons.items() if not why}
            if not common and good and (good == left or now - last_status > 0.1):
                last_status = now
                said = self.status()
                self.world.read_journals()
                self.check_journals()
                for name in good:
                    is_asked = any(name in command.names for command in commands)
                    reasons[name] = self.status_trouble(name, said.get(name), unwatched, is_asked)
                left -= {name for name in good if not reasons[name]}
                reasons = {name: why for name, why in reasons.items() if why}
            trouble = self.lines_trouble()
            if not common and not trouble and all(self.may_wait(n, commands) for n in left):
                break
            waits = not common and all(self.services[name].kind == SLOW for name in left)
            if time.monotonic() - begun > (SLOW_LIMIT if waits else LIMIT):
                raise Violation("; ".join(filter(None, [common, trouble, *reasons.values()])))
            time.sleep(0.002 if now - begun < 0.2 else 0.02)
        self.longest = max(self.longest, time.monotonic() - begun)
        for name, lines in self.lines.items():
            if self.may_lose_lines(name):
                lines.forgive(self.world.alive(name))
        if not unwatched:
            self.dead_before, self.dead = self.dead, set()
        self.account(commands, wishes, unwatched, left)
        return {name for name, wish in wishes.items() if wish is None}

    def may_wait(self, name, commands):
        """Whether it is enough that it is as it must be in a while."""
        service = self.services[name]
        if service.kind != SLOW or any(name in command.names for command in commands):
            return False
        service.since = service.since or time.monotonic()
        return time.monotonic() - service.since < SLOW_LIMIT / 2

    def verbs(self, commands):
        """What was asked for, for each service."""
        verbs = collections.defaultdict(set)
        for command in commands:
            for name in command.names:
                verbs[name].add(command.words[0])
        return verbs

    def wish(self, name, commands):
        """Whether it must be up; None when commands raced."""
        verbs = self.verbs(commands)[name]
        if {"start", "stop"} <= verbs:
            return None
        if verbs & {"start", "stop"}:
            return "start" in verbs
        return self.services[name].is_up

    def may_have_failed(self, name):
        """Whether no run since it was last asked to start has lasted long enough."""
        service = self.services[name]
        if service.kind != "fickle":
            return False
        runs = itertools.takewhile(lambda run: run.born > service.started,
                                   reversed(self.world.runs[name]))
        return all(run.is_over and self.lasted(service, run) < START_NS + SLACK_NS
                   for run in runs)

    @staticmethod
    def lasted(service, run):
        end = run.ended or service.killed.get(run.key) or run.born
        return end - run.born

    def process_trouble(self, name, wish, processes, unwatched):
        live = self.world.alive(name)
        if len(live) > 1:
            raise Violation(f"{name}: two live runs: {[run.key for run in live]}")
        workers = {p.pid: p for p in processes if p.role == "worker"}
        # A fork of a worker that waits to become the service.
        workers = {p.pid: p for p in workers.values() if p.ppid not in workers}
        rest = [p for p in processes if p.role == "service"]
        if unwatched:
            return ""
        if wish is not True and not rest and not workers:
            return ""
        if wish is False:
            return f"{name}: is to be down, and there are {rest + list(workers.values())}"
        if not live and not rest and not workers and self.may_have_failed(name):
            return ""
        if not live:
            return f"{name}: is to be up, and has no run: {processes}"
        holder = self.worker(name)
        if list(workers) != [holder]:
            return f"{name}: has workers {list(workers.values())}, and {holder} holds its lock"
        if workers[holder].is_stopped:
            return f"{name}: its worker {holder} is stopped"
        return ""

    def common_trouble(self, processes, unwatched):
        keepers = [p.pid for p in processes if p.role == "keeper"]
        if unwatched:
            return ""
        if any(p.role == "worker" for p in processes):
            if keepers != [self.keeper()]:
                return f"keepers {keepers}, and {self.keeper()} holds the lock"
            if any(p.is_stopped for p in processes if p.role == "keeper"):
                return "the keeper is stopped"
        return ""

    def status_trouble(self, name, said, unwatched, is_asked):
        """Whether status tells of the world as it was seen just before, and is."""
        service = self.services[name]
        live = self.world.alive(name)
        if said is None:
            return f"{name}: status does not know it"
        state, shown = said["state"], f"{name}: status says {said}"
        service.seen = 0, len(self.world.runs[name]), live
        if not live:
            if state in ("starting", "running", "stopping"):
                return f"{shown}, and there is no run"
            if unwatched:
                return ""
            is_right = state == "not-running" or state == "ERROR" and self.may_have_failed(name)
            return "" if is_right or state == "done" else shown
        if state not in ("starting", "running") or said["pid"] != live[0].pid:
            return f"{shown}, and run {live[0].key} lives"
        if said["watched"] is not (not unwatched):
            return shown
        if not unwatched and said["worker_pid"] != self.worker(name):
            return f"{shown}, and {self.worker(name)} is its worker"
        code = said["exit_code"]
        over = self.world.over[name]
        if is_asked:
            service.unborn = over
        codes = self.codes(name) | ({137, 143} if service.unborn == over else set())
        if code is not None and code not in codes:
            return f"{shown}: the last one that ended has not ended so, but with one of {codes}"
        service.seen = said["raised"], len(self.world.runs[name]), live
        return ""

    def codes(self, name):
        """How the last run that ended may have, as a shell numbers it."""
        service = self.services[name]
        run = self.world.last_over(name)
        if not run:
            return set()
        found = set()
        if run.end:
            found.add(run.status >> 8 if run.status & 0x7f == 0 else 128 + run.status)
        if run.key in service.killed:
            found.add(137)
        if not run.end:
            found |= {137, 143}     # whether such a signal was due, account() asks
        return found

    def lines_trouble(self):
        for name, lines in self.lines.items():
            wrong = lines.read()
            if wrong:
                raise Violation(wrong)
        for name, lines in self.lines.items():
            missing = lines.missing(self.world.alive(name))
            if missing and not self.may_lose_lines(name):
                return f"{name}: (run, last line in the log, lines done, lines begun): {missing}"
        return ""

    def check_journals(self):
        if self.world.violations:
            raise Violation("; ".join(self.world.violations))

    # -- accounts -----------------------------------------------------------------------

    def account(self, commands, wishes, unwatched, left):
        """Every run that ended since has ended for a reason; every further one was raised."""
        verbs = self.verbs(commands)
        for name, service in self.services.items():
            if name in left:
                continue
            service.since = 0.0
            raised, count, live = service.seen
            fresh = self.world.runs[name][service.count:count]
            was_alive = bool(service.alive)
            ended = [run for run in service.alive + fresh if run not in live]
            is_asked = bool(verbs[name] & {"stop", "restart"})
            for run in ended:
                if run.end == "D":
                    run.why = "itself"
                elif run.key in service.killed:
                    run.why = "killed"
                elif is_asked or service.was_asked:
                    run.why = "asked"
                else:
                    raise Violation(f"{name}: run {run.key} was ended, and nobody asked for it")
                self.deaths[run.why] += 1
            service.was_asked = is_asked and any(c.is_quick for c in commands if name in c.names)
            for command in commands:
                if (command.words[0] == "restart" and command.code == 0 and name in command.names
                        and not command.is_quick and was_alive and not ended):
                    raise Violation(f"{name}: restart has returned, and nothing was restarted")
            service.alive, service.count = live, count
            if unwatched:
                continue
            # Since it was last down, or started, each run but the first was raised.
            lives = count - service.base
            # A restart may fall upon a run that has not yet told of its birth.
            unborn = 50 if verbs[name] - {"start"} else 0
            if "start" in verbs[name] and live:
                if not 0 <= raised < lives + unborn:
                    raise Violation(f"{name}: status says raised={raised}, and {lives} runs at "
                                    f"most have begun since it was started")
                service.base = count - raised - 1
            elif not live:
                service.base = count
            elif lives - 1 < raised < lives + unborn:
                service.base = count - raised - 1
            elif service.lost_keeper and raised == lives - 2:
                # How a run ended may be lost with keeper and worker; and if it had just begun,
                # nobody knows whether it was let through its gate.
                service.base += 1
            elif raised != lives - 1:
                raise Violation(f"{name}: status says raised={raised}, and {lives} runs have "
                                f"begun since it was started")
            service.lost_keeper = False
            service.is_up = bool(live) and wishes[name] is not False
