"""What is done to whom: drawn from the seed alone, so that a seed names a run. Which pid that
is, and how fast the machine is, are not in its hands."""

import dataclasses
import random

# What the services of a run are, by turns: program, configuration.
KINDS = [
    ("steady", "config_start_sec=0"),
    ("mortal", "config_start_sec=0"),
    ("forker", "config_start_sec=0"),
    ("chatty", "config_start_sec=0"),
    ("slow", "config_start_sec=0"),
    ("deaf", "config_start_sec=0\nconfig_stop='TERM 0.2, KILL 5'"),
    ("fickle", "config_start_sec=0.3\nconfig_max_retry=unlimited\n"
               "config_retry_sec=0.1\nconfig_retry_max_sec=0.4"),
    ("server", "config_start_sec=0\nconfig_stop_to=process"),
    ("chatty-mortal", "config_start_sec=0"),
    ("forker", "config_start_sec=0\nconfig_stop_to=group"),
]
# Clearing what it leaves takes five seconds each time: one is enough.
LAST_KIND = ("deaf-forker", "config_start_sec=0\nconfig_stop='TERM 0.2, KILL 5'")


def kind_of(index, count):
    if index == count - 1 and count > len(KINDS):
        return LAST_KIND
    return KINDS[index % len(KINDS)]


@dataclasses.dataclass(frozen=True)
class Action:
    after: float            # seconds since the one before
    what: str               # kill, halt, resume, command, everything, measure
    role: str = ""          # keeper, logger, worker, service, kid
    name: str = ""
    words: tuple = ()       # of a command
    names: tuple = ()       # the services that it is about

    def __str__(self):
        words = " ".join(self.words)
        target = f"{self.role} {self.name}".strip()
        return f"+{self.after * 1000:.1f} ms {self.what} {target}{words}"


def cut(names, pattern):
    head = pattern.rstrip("*")
    return tuple(name for name in names if name.startswith(head))


class Planner:
    """The steps of one run."""

    def __init__(self, seed, names, features):
        self.seed, self.names, self.features = seed, names, features

    def step(self, number):
        """The name of the step's shape and its actions."""
        rng = random.Random(f"{self.seed}/{number}")
        shapes = [
            (22, self.one_worker), (10, self.one_keeper), (8, self.some_workers),
            (10, self.keeper_and_workers), (6, self.keeper_again_and_again),
            (10, self.some_services), (10, self.pairs), (3, self.kids),
            (4, self.loggers), (6, self.commands), (18, self.commands_and_kills), (4, self.storm),
            (2, self.everything), (3, self.start_all),
        ]
        if "stop" in self.features:
            shapes += [(4, self.halted_worker), (4, self.halted_keeper), (3, self.halted_service)]
        shape = rng.choices([s for _, s in shapes], [w for w, _ in shapes])[0]
        return shape.__name__.replace("_", " "), shape(rng)

    def resolve(self, number, names):
        """One last word for services of which nobody can say whether they are to run."""
        rng = random.Random(f"{self.seed}/{number}/resolve")
        return {name: rng.random() < 0.75 for name in sorted(names)}

    # -- shapes -------------------------------------------------------------------------

    def one_worker(self, rng):
        return [Action(0, "measure", "worker", rng.choice(self.names))]

    def one_keeper(self, rng):
        return [Action(0, "measure", "keeper")]

    def some(self, rng, least=2, most=8):
        return rng.sample(self.names, min(len(self.names), rng.randint(least, most)))

    @staticmethod
    def gap(rng, most=0.004):
        return rng.choice([0, 0, rng.uniform(0, most)])

    def some_workers(self, rng):
        return [Action(self.gap(rng), "kill", "worker", name) for name in self.some(rng)]

    def keeper_and_workers(self, rng):
        actions = [Action(self.gap(rng), "kill", "worker", name) for name in self.some(rng, 1, 6)]
        actions.insert(rng.randint(0, len(actions)), Action(self.gap(rng), "kill", "keeper"))
        return actions

    def loggers(self, rng):
        """Together with whom it works for."""
        actions = [Action(self.gap(rng, 0.01), "kill", "logger")
                   for _ in range(rng.randint(1, 4))]
        for role in rng.sample(["keeper", "worker", "service"], rng.randint(0, 2)):
            action = Action(self.gap(rng), "kill", role, rng.choice(self.names))
            actions.insert(rng.randint(0, len(actions)), action)
        return actions

    def keeper_again_and_again(self, rng):
        return [Action(self.gap(rng, 0.01), "kill", "keeper") for _ in range(rng.randint(2, 8))]

    def some_services(self, rng):
        return [Action(self.gap(rng), "kill", "service", n) for n in self.some(rng, 1, 5)]

    def pairs(self, rng):
        actions = []
        for name in self.some(rng, 1, 4):
            both = ["worker", "service"]
            rng.shuffle(both)
            actions += [Action(self.gap(rng, 0.002), "kill", role, name) for role in both]
        if rng.random() < 0.3:
            actions.insert(rng.randint(0, len(actions)), Action(0, "kill", "keeper"))
        return actions

    def kids(self, rng):
        return [Action(self.gap(rng), "kill", "kid", name) for name in self.some(rng)]

    def everything(self, rng):
        how = rng.choice(["at once", "in turn"])
        actions = [Action(0, "everything", how)]
        # Some fall while nobody is left.
        if rng.random() < 0.5:
            actions += [Action(0, "kill", "service", n) for n in self.some(rng, 1, 3)]
        return actions

    def storm(self, rng):
        roles = ["keeper", "logger", "worker", "worker", "worker", "service", "service", "kid"]
        return [Action(self.gap(rng, 0.005), "kill", rng.choice(roles), rng.choice(self.names))
                for _ in range(rng.randint(15, 40))]

    # -- commands -----------------------------------------------------------------------

    def start_all(self, rng):
        """So that there is something to kill."""
        return [Action(0, "command", words=("start", "*"), names=tuple(self.names))]

    def command(self, rng, name=None, verbs=("start", "start", "stop", "restart", "restart")):
        if name is None and "upgrade" in self.features and rng.random() < 0.1:
            return Action(self.gap(rng, 0.01), "command", words=("upgrade",))
        if name is None and "resume" in self.features and rng.random() < 0.1:
            return Action(self.gap(rng, 0.01), "command", words=("resume",))
        verb = rng.choice(verbs)
        options = {"start": [(), (), ("--wait=20",)],
                   "stop": [(), (), (), ("--now",), ("--no-wait",)],
                   "restart": [(), (), ("--no-wait",)]}[verb]
        draw = rng.random()
        if name is not None or draw < 0.7:
            patterns = (name or rng.choice(self.names),)
        elif draw < 0.9:
            patterns = tuple(self.some(rng, 2, 3))
        else:
            patterns = (rng.choice(self.names)[:-1] + "*",)
        names = tuple({n for p in patterns for n in cut(self.names, p) if p[-1] == "*" or n == p})
        words = (verb, *rng.choice(options), *patterns)
        return Action(self.gap(rng, 0.01), "command", words=words, names=names)

    def commands(self, rng):
        if rng.random() < 0.3:
            return [self.command(rng)]
        name = rng.choice(self.names)
        return [self.command(rng, rng.choice([name, name, None]))
                for _ in range(rng.randint(2, 8))]

    def commands_and_kills(self, rng):
        actions = []
        for _ in range(rng.randint(1, 3)):
            command = self.command(rng)
            actions.append(command)
            targets = command.names or (rng.choice(self.names),)
            for _ in range(rng.randint(1, 4)):
                role = rng.choice(["worker", "worker", "keeper", "service"])
                gap = rng.choice([0, rng.uniform(0, 0.003), rng.uniform(0, 0.03),
                                  rng.uniform(0, 0.4)])
                actions.append(Action(gap, "kill", role, rng.choice(targets)))
        return actions

    # -- stopped processes --------------------------------------------------------------

    def halted_worker(self, rng):
        """Nothing but its service's end, or a command, tells that it is."""
        actions = []
        for name in self.some(rng, 1, 3):
            actions.append(Action(self.gap(rng), "halt", "worker", name))
            if rng.random() < 0.6:
                actions.append(Action(self.gap(rng), "kill", "service", name))
            else:
                actions.append(self.command(rng, name))
        return actions

    def halted_keeper(self, rng):
        # A worker does not look at a keeper that it has heard a moment ago.
        actions = [Action(0.15, "halt", "keeper")]
        names = self.some(rng, 2, 4)
        if rng.random() < 0.5:
            actions += [Action(self.gap(rng), "kill", "worker", name) for name in names[1:]]
        if rng.random() < 0.5:
            actions.append(Action(self.gap(rng), "kill", "service", names[0]))
        else:
            actions.append(self.command(rng, names[0]))
        return actions

    def halted_service(self, rng):
        name = rng.choice(self.names)
        actions = [Action(0, "halt", "service", name)]
        if rng.random() < 0.5:
            actions.append(Action(self.gap(rng), "kill", "worker", name))
        if rng.random() < 0.5:
            actions.append(self.command(rng, name, ("stop", "restart")))
        actions.append(Action(rng.uniform(0, 0.02), "resume", "service", name))
        return actions
