/* A service of the chaos test: service KIND NAME DIR
 *
 * It proves by itself what an observer could miss between two looks. Each run takes two
 * locks at its birth, without waiting:
 *   DIR/k/NAME.main  fcntl(2), held by the main process alone; dies with it
 *   DIR/k/NAME.tree  flock(2), shared with everything that the run forks
 * A lock that is held by somebody else is a second live run, or what an earlier one left.
 * DIR/j/NAME is its journal, a line for each fact, written by one write(2):
 *   B pid ns         a run begins; ns is CLOCK_MONOTONIC, so that the pair is never reused
 *   D pid ns code t  it ends by itself, with this wait status, at this time
 *   E pid ns code t  it ends because of TERM
 *   V pid ns what    a violation
 * A chatty one counts its lines in DIR/n/NAME.pid.ns, which is mapped: two numbers, lines
 * begun and lines done, which are right whenever it is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *name, *dir;
static long long born;
static int journal_fd;
static volatile sig_atomic_t termed;
static volatile uint64_t *lines; /* begun, done */

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void nap(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Uniform in [from, to]. Timing is the kernel's anyway: nothing here needs to repeat. */
static long between(long from, long to)
{
    static uint64_t x;
    if (!x)
        x = (uint64_t)now() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 32;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return from + (long)(x % (uint64_t)(to - from + 1));
}

static int open_in(const char *what, const char *suffix, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/%s%s", dir, what, name, suffix);
    int fd = open(path, flags | O_CREAT, 0600);
    if (fd < 0)
        perror(path), _exit(99);
    return fd;
}

static void note(char what, const char *format, ...)
{
    char line[512];
    int n = snprintf(line, sizeof line, "%c %d %lld ", what, (int)getpid(), born);
    va_list rest;
    va_start(rest, format);
    n += vsnprintf(line + n, sizeof line - n - 1, format, rest);
    va_end(rest);
    line[n++] = '\n';
    if (write(journal_fd, line, n) != n)
        _exit(98);
}

static void take_locks(void)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int main_lock = open_in("k", ".main", O_RDWR | O_CLOEXEC);
    int tree_lock = open_in("k", ".tree", O_RDWR);
    int is_second = fcntl(main_lock, F_SETLK, &whole) < 0;
    int is_early = flock(tree_lock, LOCK_EX | LOCK_NB) < 0;
    note('B', "%d", (int)getppid());
    if (is_second) {
        fcntl(main_lock, F_GETLK, &whole);
        note('V', "a second live run beside %d", (int)whole.l_pid);
    } else if (is_early)
        note('V', "something of an earlier run still lives");
}

/* Looks as if it had never been started by anybody, as programs do that set their title. */
static void scrub(void)
{
    for (char **e = environ; *e; e++)
        memset(*e, 0, strlen(*e));
}

static void idle(void)
{
    for (;;)
        pause();
}

/* A child that lives for so long, or for ever. */
static void kid(int own_session, int twice, int scrubbed, int deaf, long ms)
{
    pid_t pid = fork();
    if (pid < 0)
        return;
    if (pid > 0) {
        if (twice)
            waitpid(pid, NULL, 0);
        return;
    }
    if (own_session)
        setsid();
    if (twice && fork() != 0)
        _exit(0);
    if (scrubbed)
        scrub();
    if (deaf)
        signal(SIGTERM, SIG_IGN);
    if (!ms)
        idle();
    nap(ms);
    _exit(0);
}

static void reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

/* One write(2) for each line, to both descriptors by turns. */
static void say(void)
{
    static unsigned long number;
    char line[256];
    int n = snprintf(line, sizeof line, "%s %d %lld %lu\n", name, (int)getpid(), born, ++number);
    lines[0] = number;
    if (write(number % 3 ? 1 : 2, line, n) != n) {
        note('V', "cannot write line %lu: %s", number, strerror(errno));
        _exit(97);
    }
    lines[1] = number;
}

static void count_lines(void)
{
    char suffix[64];
    snprintf(suffix, sizeof suffix, ".%d.%lld", (int)getpid(), born);
    int fd = open_in("n", suffix, O_RDWR | O_CLOEXEC);
    if (ftruncate(fd, 2 * sizeof *lines) < 0)
        _exit(96);
    lines = mmap(NULL, 2 * sizeof *lines, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
}

static void on_term(int signal)
{
    (void)signal;
    termed = 1;
}

static void finish(char why, int code)
{
    note(why, "%d %lld", code << 8, now());
    _exit(code);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 95;
    const char *kind = argv[1];
    name = argv[2], dir = argv[3];
    born = now();
    journal_fd = open_in("j", "", O_WRONLY | O_APPEND | O_CLOEXEC);
    take_locks();

    long end = 0;       /* when it ends by itself, ns */
    long slowness = 0;  /* ms from TERM to its end */
    int is_forker = !strcmp(kind, "forker"), is_chatty = !!strstr(kind, "chatty");
    if (!strcmp(kind, "mortal") || !strcmp(kind, "chatty-mortal"))
        end = between(50, 4000);
    if (!strcmp(kind, "fickle"))
        end = between(0, 9) < 3 ? between(5, 200) : between(400, 5000);
    if (!strcmp(kind, "slow"))
        slowness = between(50, 700);
    if (!strcmp(kind, "deaf"))
        signal(SIGTERM, SIG_IGN);
    /* One that has both left the session and lost the mark belongs to its service by
     * lineage alone, and that is broken when worker and keeper have both died. */
    if (!strcmp(kind, "server"))
        for (int i = 0; i < 4; i++)
            kid(i % 2, 0, !(i % 2), 0, 0);
    if (is_forker) {
        kid(0, 0, 0, 0, 0);
        kid(1, 0, 0, 0, 0);
        kid(1, 1, 0, 0, 0);
    }
    if (!strcmp(kind, "deaf-forker"))
        kid(1, 1, 0, 1, 0);
    if (is_chatty)
        count_lines();
    if (slowness) {
        struct sigaction act = {.sa_handler = on_term};
        sigaction(SIGTERM, &act, NULL);
    }
    long step = is_chatty ? 20 : is_forker ? 100 : 10000;
    for (;;) {
        long left = end ? end - (now() - born) / 1000000 : step;
        if (end && left <= 0) {
            if (between(0, 3) == 0) {
                note('D', "%d %lld", SIGUSR1, now());
                kill(getpid(), SIGUSR1);
            }
            finish('D', (int)between(0, 9));
        }
        nap(left < step ? left : step);
        if (termed) {
            nap(slowness);
            finish('E', 0);
        }
        if (is_chatty)
            for (long n = between(1, 4); n > 0; n--)
                say();
        if (is_forker) {
            reap();
            kid((int)between(0, 1), (int)between(0, 1), 0, 0, between(1, 600));
        }
    }
}
