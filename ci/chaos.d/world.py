"""What is: the processes of the test as /proc shows them, and what services write themselves.

Nothing here asks Reraise. A process belongs to the test when it executes one of the copies
of the programs in its directory, or names that directory in its arguments."""

import ctypes
import dataclasses
import fcntl
import os
import re
import signal
import struct
import time

TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Process:
    pid: int
    ppid: int
    state: str
    start: int          # ticks since boot
    role: str           # keeper, logger, worker, service, command, other
    name: str           # of the service, or ""

    @property
    def is_stopped(self):
        return self.state == "T"


@dataclasses.dataclass
class Run:
    """One birth in a journal."""
    pid: int
    born: int           # ns, CLOCK_MONOTONIC
    parent: int
    end: str = ""       # "D" by itself, "E" by TERM, as it wrote
    status: int = 0
    ended: int = 0      # ns, as it wrote
    is_over: bool = False
    why: str = ""       # how its end is explained

    @property
    def key(self):
        return f"{self.pid}.{self.born}"


def stat_of(pid):
    """State, parent and start of a process; None when there is none, or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state = fields[0].decode()
    if state in "ZX":
        return None
    return state, int(fields[1]), int(fields[19])


def lock_holder(path, byte=0):
    """Who holds a POSIX lock: the kernel's word. 0 for nobody."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return 0
    try:
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else pid
    finally:
        os.close(fd)


class World:
    """The processes and the journals below one directory."""

    def __init__(self, top, names):
        self.top, self.names = top, names
        self.mark = os.fsencode(top) + b"/"
        self.runs = {name: [] for name in names}
        # Those of them that are not known to be over; and how many are. Nothing that is done
        # after each step may take longer the more runs there were.
        self._open = {name: [] for name in names}
        self.over = {name: 0 for name in names}
        self.violations = []
        self._read = {name: 0 for name in names}
        self._cache = {}
        # Orphans must be reaped, or pids are never seen to end where init does not care.
        if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:
            raise OSError("cannot become a child subreaper")
        self.commands = {}

    # -- processes ----------------------------------------------------------------------

    def reap(self):
        """Reaps what has come to us; the ends of commands are kept for whoever waits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.commands:
                self.commands[pid] = os.waitstatus_to_exitcode(status)

    def processes(self):
        """Every living process of the test, by one look at all there are."""
        self.reap()
        found, cache = [], {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            pid = int(entry)
            stat = stat_of(pid)
            if stat is None:
                continue
            state, ppid, start = stat
            # A fork is its parent until it executes something, and a worker gets its name
            # after it was forked. Only a service stays what it is.
            known = self._cache.get((pid, start)) or self._identify(pid)
            if known[0] == "service" or ppid == 2:
                cache[pid, start] = known
            if known[0] != "other":
                found.append(Process(pid, ppid, state, start, *known))
        self._cache = cache
        return found

    def _identify(self, pid):
        try:
            program = os.readlink(f"/proc/{pid}/exe").encode()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            return "other", ""
        text = [word.decode(errors="replace") for word in words]
        base = os.path.basename(program.split(b" (deleted)")[0])
        if program.startswith(self.mark):
            if base == b"auto-reraise":
                name = text[0].partition("auto-reraise ")[2]
                if name == "(logger)":
                    return "logger", ""
                return ("worker", name) if name in self.runs else ("keeper", "")
            if base == b"service":
                return "service", text[2] if len(text) > 2 else ""
            return "command", ""
        # The shell that is to become the service.
        for word in text:
            if word.startswith(f"{self.top}/d/"):
                return "service", os.path.basename(word)
        return "other", ""

    @staticmethod
    def send(pid, number):
        """Whether the signal was sent."""
        try:
            os.kill(pid, number)
            return True
        except ProcessLookupError:
            return False

    def end_all(self, limit=20):
        """Kills everything that belongs to the test: stopped first, so that nobody raises
        what is not on the list yet. The pids that do not die."""
        end = time.monotonic() + limit
        while True:
            stopped = set()
            while True:
                fresh = {p.pid for p in self.processes()} - stopped
                if not fresh:
                    break
                for pid in fresh:
                    self.send(pid, signal.SIGSTOP)
                stopped |= fresh
            for pid in stopped:
                self.send(pid, signal.SIGKILL)
            if not stopped:
                return set()
            if time.monotonic() > end:
                return stopped
            time.sleep(0.01)

    # -- journals -----------------------------------------------------------------------

    def read_journals(self):
        """Takes in what services have written since; the names of those that wrote."""
        fresh = set()
        for name in self.names:
            try:
                with open(f"{self.top}/j/{name}", "rb") as file:
                    file.seek(self._read[name])
                    text = file.read()
            except FileNotFoundError:
                continue
            whole = text.rpartition(b"\n")[0]
            if not whole:
                continue
            self._read[name] += len(whole) + 1
            fresh.add(name)
            for line in whole.decode().split("\n"):
                self._take(name, line)
        return fresh

    def _take(self, name, line):
        what, pid, born, rest = (line.split(" ", 3) + [""])[:4]
        runs = self.runs[name]
        if what == "B":
            runs.append(Run(int(pid), int(born), int(rest)))
            self._open[name].append(runs[-1])
            return
        key = f"{pid}.{born}"
        run = next(run for run in reversed(runs) if run.key == key)
        if what == "V":
            self.violations.append(f"{name}[{pid}]: {rest}")
        else:
            status, ended = rest.split()
            run.end, run.status, run.ended = what, int(status), int(ended)

    def alive(self, name):
        """The runs of a service that have not ended."""
        live = []
        for run in self._open[name]:
            stat = stat_of(run.pid)
            # In the same tick as its birth at the latest; a later start is a stranger's.
            if stat is None or stat[2] > run.born * TICKS // 10**9 + 1:
                run.is_over = True
                self.over[name] += 1
            else:
                live.append(run)
        self._open[name] = live
        return list(live)

    def last_over(self, name):
        """Of the runs that have ended, the one that began last."""
        return next((run for run in reversed(self.runs[name]) if run.is_over), None)

class Lines:
    """What one chatty service's log must hold: each line of each run, once, in order."""

    PATTERN = re.compile(rb"(\S+) (\d+) (\d+) (\d+)")

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.path = f"{world.top}/l/{name}/current"
        self.offset, self.rest = 0, b""
        self.seen = {}      # run key: last number
        self.unchecked, self.taken = [], 0
        self.total = 0

    def read(self):
        """Takes in what was written since; what is wrong with it."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                text = file.read()
        except FileNotFoundError:
            return None
        self.offset += len(text)
        whole, _, self.rest = (self.rest + text).rpartition(b"\n")
        for line in whole.split(b"\n") if whole else ():
            found = self.PATTERN.fullmatch(line)
            if not found or found[1].decode() != self.name:
                return f"{self.name}: a line that nobody wrote: {line[:100]!r}"
            key = f"{found[2].decode()}.{found[3].decode()}"
            number, last = int(found[4]), self.seen.get(key, 0)
            if number != last + 1:
                what = "doubled" if number <= last else "lost"
                return f"{self.name}: line {last + 1} of run {key} is {what}: then came {number}"
            self.seen[key] = number
            self.total += 1
        return None

    def missing(self, live):
        """Runs that have ended and whose last lines are not there, with both numbers."""
        left, later = [], []
        runs = self.world.runs[self.name]
        self.unchecked += runs[self.taken:]
        self.taken = len(runs)
        for run in self.unchecked:
            if run in live:
                later.append(run)
                continue
            path = f"{self.world.top}/n/{self.name}.{run.key}"
            try:
                with open(path, "rb") as file:
                    begun, done = struct.unpack("QQ", file.read(16))
            except (FileNotFoundError, struct.error):
                begun = done = 0
            seen = self.seen.get(run.key, 0)
            if done <= seen <= begun:
                if os.path.exists(path):
                    os.unlink(path)
            else:
                later.append(run)
                left.append((run.key, seen, done, begun))
        self.unchecked = later
        return left

    def forgive(self, live):
        """What the others said last may be gone."""
        self.unchecked = [run for run in self.unchecked if run in live]
