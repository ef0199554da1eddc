/* shoal-supervise [--for UID:GID:GROUP,...] DIR: run one task, bound its logs, end all of it, and
 * record how it ended.
 *
 * One of these per execution; it outlives the agent, which finds it again by DIR/supervisor.
 * DIR/spec (NUL-ended `key=value` fields, written by supervisor.py) says what to run. The lock on
 * DIR makes starting idempotent: whoever finds `supervisor` or `exit` there never starts a task.
 * --for comes from shoal-spawn, and is then whom the task runs as, whatever the spec says.
 *
 * shoal-supervise --beside USER DIRECTORY PID [CGROUP...] -- PROGRAM ARGUMENT...: run a command
 * beside a task, see run_beside.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_BYTES = 65536, PIPE_BYTES = 262144, GROUPS_MAX = 64, CGROUPS_MAX = 4, DEPTH_MAX = 4096, STATUS_FD = 100 };
enum { KILL_AGAIN_MS = 2, KILL_AGAIN_MS_MAX = 512, ASK_AGAIN_MS = 10 };
enum { NOTE_EVERY_MS = 50, NOTES_MAX = 4096 }; /* of a segment; beyond, times are coarser */
static const char OOM_SCORE[] = "300";

struct log {           /* one stream: at most two segments, each named by its absolute start */
    const char *name;
    int pipe, segment; /* fds, -1 when closed */
    int64_t end, start, previous; /* absolute offsets; previous is -1 when there is none */
    int times; /* of the segment: pairs of an offset and the wall time when it was written */
    int64_t noted_ms, notes;
};

static struct {
    char **argv, **env, *cwd, *input; /* input: below work, the task's standard input */
    int64_t timeout_ms, grace_ms, segment_bytes, uid, gid, limit[RLIM_NLIMITS];
    gid_t groups[GROUPS_MAX];
    size_t groups_count;
    const char *cgroups[CGROUPS_MAX]; /* files that a process joins a control group by */
    size_t cgroups_count;
    bool sandboxed;
} spec = {.grace_ms = 10000, .segment_bytes = 1 << 20, .uid = -1, .gid = -1};

static struct log logs[2] = {{"stdout", -1, -1, 0, 0, -1, -1, 0, 0}, {"stderr", -1, -1, 0, 0, -1, -1, 0, 0}};
static int dir = -1, exit_file = -1, work = -1;
static int hearer = -1; /* a pipe whose other end is closed by whoever wants no more of us */
static int64_t dropped_bytes, started_ms;
static pid_t self, task;
static bool task_reaped;
static unsigned reaped;
static int task_status;
static const char *reason;          /* why we are ending it; NULL while nobody asked */
/* The step that failed: set by the child too, whose memory may be a copy of ours. */
static struct { const char *volatile stage; volatile int number; } *failed;
static char chunk[CHUNK_BYTES];

static int64_t now_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- processes ---- */

struct stat_line { pid_t parent, group; unsigned long long start; };

static bool read_stat(int proc, struct stat_line *out)
{
    char text[1024], *rest;
    int file = openat(proc, "stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    if (n <= 0)
        return false;
    text[n] = 0;
    rest = strrchr(text, ')'); /* the command name before it may hold anything */
    return rest && sscanf(rest + 1, " %*c %d %d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d"
                          " %*d %*d %*d %*d %llu", &out->parent, &out->group, &out->start) == 3;
}

static int open_proc(pid_t pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static bool stat_of(pid_t pid, struct stat_line *out)
{
    int proc = open_proc(pid);
    bool found = proc >= 0 && read_stat(proc, out);
    if (proc >= 0)
        close(proc);
    return found;
}

static bool descends(struct stat_line line)
{
    for (int depth = 0; depth < DEPTH_MAX && line.parent > 1; depth++) {
        if (line.parent == self)
            return true;
        if (!stat_of(line.parent, &line))
            return false;
    }
    return line.parent == self; /* we may be a container's process 1 */
}

/* Signal every descendant once: the task's group in one atomic kill, whoever left it one by one. */
static void signal_tree(int sig)
{
    bool group_done = !task_reaped && kill(-task, sig) == 0;
    DIR *list = opendir("/proc");
    for (struct dirent *entry; list && (entry = readdir(list));) {
        struct stat_line line;
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        int proc = pid > 0 ? open_proc(pid) : -1;
        if (proc < 0)
            continue;
        if (read_stat(proc, &line) && descends(line)) {
            if (line.group != task) { /* /proc/PID pins the process: its number cannot be recycled */
                if (syscall(SYS_pidfd_send_signal, proc, sig, NULL, 0) && errno != ESRCH)
                    kill(pid, sig);
            } else if (!group_done) /* a member of ours lives, so the number is still this group */
                group_done = kill(-task, sig) == 0;
        }
        close(proc);
    }
    if (list)
        closedir(list);
}

/* Ask what is in a sandbox to end, but not bubblewrap itself, which would take all of it along at
 * once; false while nothing but bubblewrap is there yet. Its process 1 does not hear a TERM. */
static bool signal_inside(int sig)
{
    DIR *list = opendir("/proc");
    int inside = 0;
    for (struct dirent *entry; list && (entry = readdir(list));) {
        struct stat_line line;
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        int proc = pid > 0 && pid != task ? open_proc(pid) : -1;
        if (proc < 0)
            continue;
        if (read_stat(proc, &line) && descends(line)) {
            inside++;
            if (syscall(SYS_pidfd_send_signal, proc, sig, NULL, 0) && errno != ESRCH)
                kill(pid, sig);
        }
        close(proc);
    }
    if (list)
        closedir(list);
    return inside > 1;
}

/* False once no child is left; as subreaper that means no descendant either. */
static bool reap(void)
{
    int status;
    pid_t pid;
    for (; (pid = waitpid(-1, &status, WNOHANG)) > 0; reaped++)
        if (pid == task)
            task_reaped = true, task_status = status;
    return pid == 0;
}

/* ---- files ---- */

static bool record(const char *name, pid_t pid)
{
    char text[64];
    struct stat_line line;
    if (!stat_of(pid, &line))
        return false;
    int n = snprintf(text, sizeof text, "%d %llu\n", pid, line.start);
    int file = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool ok = file >= 0 && write(file, text, (size_t)n) == n;
    if (file >= 0)
        close(file);
    return ok;
}

static void segment_path(char path[48], const struct log *log, int64_t start)
{
    snprintf(path, 48, "%s.%020" PRId64, log->name, start);
}

static void times_path(char path[48], const struct log *log, int64_t start)
{
    snprintf(path, 48, "times-%s.%020" PRId64, log->name, start);
}

static bool rotate(struct log *log)
{
    char path[48];
    segment_path(path, log, log->end);
    int file = openat(dir, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        return false;
    if (log->previous >= 0) {
        segment_path(path, log, log->previous);
        unlinkat(dir, path, 0);
        times_path(path, log, log->previous);
        unlinkat(dir, path, 0);
    }
    log->previous = log->segment >= 0 ? log->start : -1;
    if (log->segment >= 0)
        close(log->segment);
    log->segment = file, log->start = log->end;
    if (log->times >= 0)
        close(log->times);
    times_path(path, log, log->start);
    log->times = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    log->noted_ms = log->notes = 0;
    return true;
}

/* When what stands at this offset was written; nothing is lost where it cannot be noted. */
static void note_time(struct log *log, int64_t offset)
{
    int64_t now = now_ms(CLOCK_MONOTONIC);
    if (log->times < 0 || log->notes >= NOTES_MAX || (log->notes && now < log->noted_ms + NOTE_EVERY_MS))
        return;
    int64_t pair[2] = {offset, now_ms(CLOCK_REALTIME)};
    if (write(log->times, pair, sizeof pair) == (ssize_t)sizeof pair)
        log->notes++;
    log->noted_ms = now;
}

static void keep(struct log *log, const char *data, int64_t n)
{
    while (n > 0) {
        int64_t room = log->start + spec.segment_bytes - log->end;
        if (log->segment < 0 || room <= 0) {
            if (!rotate(log))
                break;
            room = spec.segment_bytes;
        }
        ssize_t wrote = write(log->segment, data, (size_t)(n < room ? n : room));
        if (wrote <= 0)
            break;
        note_time(log, log->end);
        data += wrote, n -= wrote, log->end += wrote;
    }
    dropped_bytes += n; /* a full disk costs output, never the task */
}

static bool pump(struct log *log)
{
    ssize_t n = read(log->pipe, chunk, sizeof chunk);
    if (n > 0)
        keep(log, chunk, n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(log->pipe);
        log->pipe = -1;
    }
    return n > 0;
}

static void write_exit(void)
{
    char text[512], code[16] = "null", sig[16] = "null";
    const char *why = failed->stage ? "start-failed" : reason;
    if (!failed->stage && WIFEXITED(task_status))
        snprintf(code, sizeof code, "%d", WEXITSTATUS(task_status));
    else if (!failed->stage)
        snprintf(sig, sizeof sig, "%d", WTERMSIG(task_status));
    if (!why)
        why = WIFEXITED(task_status) ? "exited" : "signalled";
    int64_t ended_ms = now_ms(CLOCK_MONOTONIC);
    int n = snprintf(text, sizeof text,
        "{\"reason\":\"%s\",\"code\":%s,\"signal\":%s,\"stage\":\"%s\",\"errno\":%d,"
        "\"duration_ms\":%" PRId64 ",\"ended_mono_ms\":%" PRId64 ",\"ended_wall_ms\":%" PRId64 ","
        "\"stdout_bytes\":%" PRId64 ",\"stderr_bytes\":%" PRId64 ",\"dropped_bytes\":%" PRId64 "}\n",
        why, code, sig, failed->stage ? failed->stage : "", failed->number, ended_ms - started_ms, ended_ms,
        now_ms(CLOCK_REALTIME), logs[0].end, logs[1].end, dropped_bytes);
    if (pwrite(exit_file, text, (size_t)n, 0) != n || ftruncate(exit_file, n) ||
        renameat(dir, "exit.tmp", dir, "exit"))
        _exit(1);
    if (fork() > 0) /* the agent waits for our end: a slow card's fsync goes on without us */
        _exit(0);
    for (int i = 0; i < 2; i++)
        if (logs[i].segment >= 0)
            fsync(logs[i].segment);
    fsync(exit_file);
    fsync(dir);
    _exit(0);
}

/* ---- the spec ---- */

static const struct { const char *key; int resource; } limits[] = {
    {"nofile", RLIMIT_NOFILE}, {"core", RLIMIT_CORE}, {"nproc", RLIMIT_NPROC},
    {"data", RLIMIT_DATA},
};

static void take(const char *key, char *value, size_t *args, size_t *vars)
{
    int64_t number = strtoll(value, NULL, 10);
    if (!strcmp(key, "arg")) spec.argv[(*args)++] = value;
    else if (!strcmp(key, "env")) spec.env[(*vars)++] = value;
    else if (!strcmp(key, "cwd")) spec.cwd = value;
    else if (!strcmp(key, "stdin")) spec.input = value;
    else if (!strcmp(key, "timeout_ms")) spec.timeout_ms = number;
    else if (!strcmp(key, "grace_ms")) spec.grace_ms = number;
    else if (!strcmp(key, "log_bytes")) spec.segment_bytes = number > 2 ? number / 2 : 1;
    else if (!strcmp(key, "uid")) spec.uid = number;
    else if (!strcmp(key, "gid")) spec.gid = number;
    else if (!strcmp(key, "sandbox")) spec.sandboxed = true;
    else if (!strcmp(key, "group") && spec.groups_count < GROUPS_MAX)
        spec.groups[spec.groups_count++] = (gid_t)number;
    else if (!strcmp(key, "cgroup") && spec.cgroups_count < CGROUPS_MAX)
        spec.cgroups[spec.cgroups_count++] = value;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (!strcmp(key, limits[i].key))
            spec.limit[limits[i].resource] = number;
}

static bool read_spec(void)
{
    struct stat st;
    size_t args = 0, vars = 0, used = 0, fields = 1;
    int file = openat(dir, "spec", O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &st))
        return false;
    size_t size = (size_t)st.st_size;
    char *text = malloc(size + 1);
    for (ssize_t n; text && used < size; used += (size_t)n)
        if ((n = read(file, text + used, size - used)) <= 0)
            return false;
    close(file);
    if (!text || !size || text[size - 1])
        return false;
    for (size_t i = 0; i < size; i++)
        fields += text[i] == 0;
    spec.argv = calloc(fields, sizeof *spec.argv);
    spec.env = calloc(fields, sizeof *spec.env);
    if (!spec.argv || !spec.env)
        return false;
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        spec.limit[i] = -1;
    for (char *field = text, *next; field < text + size; field = next) {
        char *value = strchr(field, '=');
        next = field + strlen(field) + 1;
        if (!value)
            return false;
        *value = 0;
        take(field, value + 1, &args, &vars);
    }
    return args > 0;
}

/* `uid:gid:group,...` as supervisor.py and spawn.c write it. */
static void read_user(const char *text)
{
    const char *gid = strchr(text, ':'), *more = gid ? strchr(gid + 1, ':') : NULL;
    spec.uid = strtoll(text, NULL, 10);
    spec.gid = gid ? strtoll(gid + 1, NULL, 10) : 0;
    spec.groups_count = 0;
    for (const char *next = more; next && next[1] && spec.groups_count < GROUPS_MAX; next = strchr(next + 1, ','))
        spec.groups[spec.groups_count++] = (gid_t)strtoul(next + 1, NULL, 10);
}

/* Without any right: from one user to another who is not root either, the kernel takes none away, and
 * what is held at an exec is kept by a file that has the same as its own, no_new_privs or not. */
static bool become_user(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    gid_t g = (gid_t)spec.gid;
    uid_t u = (uid_t)spec.uid;
    return !setgroups(spec.groups_count, spec.groups) && !setresgid(g, g, g) && !setresuid(u, u, u) &&
           (!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) || errno == EINVAL) &&
           (!u || !syscall(SYS_capset, &head, none));
}

/* ---- the task ---- */

static void lower_limits(void)
{
    struct rlimit now;
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        if (spec.limit[i] >= 0 && !getrlimit(i, &now)) {
            rlim_t want = (rlim_t)spec.limit[i];
            now.rlim_cur = want < now.rlim_max ? want : now.rlim_max;
            now.rlim_max = now.rlim_cur;
            setrlimit(i, &now);
        }
}

static void exec_on_path(void)
{
    char path[4096], **env = spec.env, *name = spec.argv[0];
    while (*env && strncmp(*env, "PATH=", 5))
        env++;
    const char *from = *env ? *env + 5 : "/usr/bin:/bin";
    bool denied = false;
    if (strchr(name, '/') || !*name) {
        execve(name, spec.argv, spec.env);
        return;
    }
    for (;; from++) {
        size_t n = strcspn(from, ":");
        if (snprintf(path, sizeof path, "%.*s%s%s", (int)n, from, n ? "/" : "", name) < (int)sizeof path) {
            execve(path, spec.argv, spec.env);
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                return;
            denied |= errno == EACCES;
        }
        if (!*(from += n))
            break;
    }
    errno = denied ? EACCES : ENOENT;
}

/* As the task's user, or the agent's that a task becomes another from: links lead nowhere else. */
static bool open_input(void)
{
    struct open_how how = {
        .flags = O_RDONLY | O_NOCTTY | O_NONBLOCK, /* what is no file must not keep us waiting */
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    int file = (int)syscall(SYS_openat2, work, spec.input, &how, sizeof how);
    if (file < 0 || dup2(file, 0) < 0)
        return false;
    if (file)
        close(file);
    return true;
}

static bool join_groups(void)
{
    for (size_t i = 0; i < spec.cgroups_count; i++) {
        int group = open(spec.cgroups[i], O_WRONLY | O_CLOEXEC);
        if (group < 0 || write(group, "0", 1) != 1)
            return false;
        close(group);
    }
    return true;
}

static void be_killed_first(void)
{
    int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (oom >= 0 && write(oom, OOM_SCORE, strlen(OOM_SCORE)) > 0)
        close(oom); /* a hungry task dies before the agent */
}

/* In the child; returns the step that failed. It may share our memory: raw calls only. */
static const char *become_task(int out, int err, bool joined)
{
    sigset_t none;
    be_killed_first();
    if (!joined && !join_groups()) return "cgroup";
    if (spec.sandboxed) { /* as sandbox.py asks bubblewrap to */
        int told = openat(dir, "sandbox", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (told < 0 || dup2(told, STATUS_FD) < 0) return "sandbox";
        close(told);
    }
    if (setsid() < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) return "setup";
    lower_limits();
    if (spec.uid >= 0 && !become_user()) return "user";
    if (fchdir(work)) return "workdir"; /* only now: it is closed to an agent that is not root */
    if (spec.input && !open_input()) return "stdin";
    if (spec.cwd && chdir(spec.cwd)) return "cwd";
    umask(022);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return "setup";
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after setuid, which clears it: "lost" then means ended */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    exec_on_path();
    return "exec";
}

/* A child that is born in its control group, if that is of version 2: joining one takes the kernel
 * a grace period of RCU, 10 to 20 ms (of version 1, a `tasks` file costs nothing of the sort). -1
 * where that is not to be had, as before Linux 5.7. */
static pid_t born_inside(uint64_t flags)
{
    static const char FILE_NAME[] = "/cgroup.procs";
    char path[PATH_MAX];
    size_t n = spec.cgroups_count == 1 ? strlen(spec.cgroups[0]) : 0, tail = sizeof FILE_NAME - 1;
    if (n <= tail || n >= sizeof path || strcmp(spec.cgroups[0] + n - tail, FILE_NAME))
        return -1;
    snprintf(path, sizeof path, "%.*s", (int)(n - tail), spec.cgroups[0]);
    int group = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct clone_args how = {
        .flags = flags | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)group,
    };
    pid_t born = group < 0 ? -1 : (pid_t)syscall(SYS_clone3, &how, sizeof how);
    if (born && group >= 0)
        close(group);
    return born;
}

static bool start_task(void)
{
    int ends[2][2];
    for (int i = 0; i < 2; i++) {
        if (pipe2(ends[i], O_CLOEXEC))
            return failed->stage = "setup", failed->number = errno, false;
        fcntl(ends[i][0], F_SETFL, O_NONBLOCK);
        fcntl(ends[i][0], F_SETPIPE_SZ, PIPE_BYTES);
        logs[i].pipe = ends[i][0];
    }
    bool joined = (task = born_inside(CLONE_VFORK)) >= 0;
    if (!joined)
        task = vfork();
    if (task == 0) {
        failed->stage = become_task(ends[0][1], ends[1][1], joined);
        failed->number = errno;
        _exit(127);
    }
    if (task < 0)
        failed->stage = "setup", failed->number = errno;
    close(ends[0][1]);
    close(ends[1][1]);
    return !failed->stage;
}

/* ---- its life ---- */

static int64_t asked_grace_ms(void)
{
    char text[32] = "";
    int file = openat(dir, "stop", O_RDONLY | O_CLOEXEC);
    if (!reason) /* without the agent's file the TERM came from elsewhere: a shutdown, a person */
        reason = file >= 0 ? "stopped" : "interrupted";
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    return n > 0 ? strtoll(text, NULL, 10) : spec.grace_ms;
}

/* False while there is nobody to hear it. */
static bool end_gently(void)
{
    bool heard = true;
    if (spec.sandboxed)
        heard = signal_inside(SIGTERM);
    else
        signal_tree(SIGTERM);
    signal_tree(SIGCONT); /* one that is stopped could not hear it */
    return heard;
}

static void run(int signals)
{
    int64_t timeout_at = spec.timeout_ms > 0 ? started_ms + spec.timeout_ms : INT64_MAX;
    int64_t kill_at = INT64_MAX, again_ms = KILL_AGAIN_MS;
    unsigned reaped_before = 0;
    bool heard = true; /* once it was asked to end: whether anybody was there */
    while (reap()) {
        int64_t now = now_ms(CLOCK_MONOTONIC);
        if (task_reaped && !reason && kill_at == INT64_MAX)
            kill_at = now; /* it ended by itself: what it left behind ends too */
        if (now >= timeout_at && !reason && !task_reaped) {
            reason = "timeout", kill_at = now + spec.grace_ms;
            heard = end_gently();
        }
        if (!heard && now < kill_at && !task_reaped)
            heard = end_gently();
        if (now >= kill_at) {
            signal_tree(SIGKILL);
            kill_at = now + again_ms;
            again_ms = again_ms < KILL_AGAIN_MS_MAX ? again_ms * 2 : again_ms;
            if (reaped != reaped_before) /* they die, but more come: a chain of forks */
                again_ms = KILL_AGAIN_MS, reaped_before = reaped;
        }
        int64_t until = reason || task_reaped ? kill_at : timeout_at;
        int64_t rest = until == INT64_MAX ? 3600000 : until - now;
        if (!heard && rest > ASK_AGAIN_MS)
            rest = ASK_AGAIN_MS;
        struct pollfd fds[] = {
            {signals, POLLIN, 0}, {logs[0].pipe, POLLIN, 0}, {logs[1].pipe, POLLIN, 0}, {hearer, 0, 0}};
        poll(fds, 4, rest < 0 ? 0 : rest > 3600000 ? 3600000 : (int)rest);
        for (struct signalfd_siginfo got; read(signals, &got, sizeof got) == (ssize_t)sizeof got;)
            if (got.ssi_signo == SIGTERM && (reason || !task_reaped)) {
                bool first = !reason;
                int64_t asked_at = now_ms(CLOCK_MONOTONIC) + asked_grace_ms();
                kill_at = asked_at < kill_at ? asked_at : kill_at;
                if (first)
                    heard = end_gently();
            }
        if (fds[3].revents)
            hearer = -1, reason = "interrupted", kill_at = 0;
        for (int i = 0; i < 2; i++)
            if (fds[i + 1].revents && logs[i].pipe >= 0)
                pump(&logs[i]);
    }
    for (int i = 0; i < 2; i++) /* bounded: a descriptor passed outside may still be written to */
        for (int rounds = 0; rounds < 64 && logs[i].pipe >= 0 && pump(&logs[i]); rounds++) {}
}

static void hear_no_signals(void)
{
    static const char as_default[256]; /* a struct kernel_sigaction, SIG_DFL being 0 */
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    for (int sig = 1; sig < NSIG; sig++) /* by hand: glibc's posix_spawn leaves its own two ignored */
        syscall(SYS_rt_sigaction, sig, as_default, NULL, (NSIG - 1) / 8);
}

static int listen_for_signals(void)
{
    sigset_t heard;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGTERM);
    return signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void cut_loose(void)
{
    hear_no_signals();
    setsid();
    umask(077);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && null >= 0; fd++)
        dup2(null, fd);
    if (syscall(SYS_close_range, 3u, ~0u, 0))
        for (int fd = 3; fd < 4096; fd++)
            close(fd);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    self = getpid();
}

/* ---- a command beside a task ---- */

/* The namespaces of a process in a sandbox, as its own user. A user, files and processes of its own it
 * has in any case: what has none of these is not in a sandbox (its number is another's by now). */
static bool enter(const char *pid)
{
    static const struct { const char *name; int flag; bool always; } spaces[] = {
        {"user", CLONE_NEWUSER, true}, {"mnt", CLONE_NEWNS, true}, {"pid", CLONE_NEWPID, true},
        {"ipc", CLONE_NEWIPC, true}, {"uts", CLONE_NEWUTS, true}, {"net", CLONE_NEWNET, false},
        {"cgroup", CLONE_NEWCGROUP, false},
    };
    enum { COUNT = sizeof spaces / sizeof *spaces };
    int files[COUNT];
    char path[64];
    for (size_t i = 0; i < COUNT; i++) { /* all of them first: /proc is another one behind the second */
        struct stat theirs, ours;
        snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, spaces[i].name);
        files[i] = open(path, O_RDONLY | O_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/ns/%s", spaces[i].name);
        if (files[i] < 0 || fstat(files[i], &theirs) || stat(path, &ours))
            return false;
        bool same = theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
        if (same && spaces[i].always)
            return errno = ESRCH, false;
        if (same)
            close(files[i]), files[i] = -1;
    }
    for (size_t i = 0; i < COUNT; i++)
        if (files[i] >= 0 && syscall(SYS_setns, files[i], spaces[i].flag))
            return false;
    return true;
}

static int as_exit_code(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* In the child; returns what failed. Who enters a namespace of processes is not in it: a child is. */
static const char *become_beside(char *directory, const char *inside, bool joined)
{
    sigset_t none;
    be_killed_first();
    if (!joined && !join_groups()) return spec.cgroups[0];
    if (setsid() < 0) return "setsid";
    lower_limits();
    if (spec.uid >= 0 && !become_user()) return "user";
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return "no_new_privs";
    if (inside && !enter(inside)) return "its sandbox";
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after setuid, and entering, which clear it; a child has none */
    pid_t inner = inside ? fork() : 0;
    if (inner < 0) return "fork";
    if (inner > 0) {
        int status;
        while (waitpid(inner, &status, 0) < 0 && errno == EINTR) {}
        _exit(as_exit_code(status));
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (chdir(directory)) return directory;
    umask(022);
    exec_on_path();
    return spec.argv[0];
}

/* `USER DIRECTORY PID [CGROUP...] -- PROGRAM ARGUMENT...`: run to its end, then end all that it left,
 * which it does earlier where the other end of stderr is closed. USER is `UID:GID:GROUP,...`, or `-`
 * to stay who we are; PID is a process whose sandbox it is to run in, or 0. Each variable of ours is
 * one of its own behind a colon: what they would do to another program, they do not do to us. */
static int run_beside(char **words)
{
    char *directory = words[1];
    const char *inside = strcmp(words[2], "0") ? words[2] : NULL;
    for (int i = 0; i < (int)RLIM_NLIMITS; i++)
        spec.limit[i] = i == RLIMIT_CORE ? 0 : -1;
    if (strcmp(words[0], "-"))
        read_user(words[0]);
    for (words += 3; *words && strcmp(*words, "--") && spec.cgroups_count < CGROUPS_MAX; words++)
        spec.cgroups[spec.cgroups_count++] = *words;
    if (!*words || !words[1])
        return 2;
    spec.argv = words + 1, spec.env = environ, spec.grace_ms = 0;
    for (char **each = spec.env; each && *each; each++)
        *each += **each == ':';
    hear_no_signals();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    self = getpid(), hearer = STDERR_FILENO;
    int signals = listen_for_signals();
    bool joined = (task = born_inside(0)) >= 0;
    if (!joined)
        task = fork();
    if (task == 0) {
        const char *what = become_beside(directory, inside, joined);
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        _exit(errno == ENOENT ? 127 : 126); /* as a shell does */
    }
    if (signals < 0 || task < 0)
        return 126;
    run(signals);
    return as_exit_code(task_status);
}

int main(int argc, char **argv)
{
    if (argc > 5 && !strcmp(argv[1], "--beside"))
        return run_beside(argv + 2);
    const char *user = argc == 4 && !strcmp(argv[1], "--for") ? argv[2] : NULL;
    if (argc != 2 && !user) {
        fputs("usage: shoal-supervise [--for USER] DIR (the agent starts it)\n", stderr);
        return 2;
    }
    cut_loose();
    dir = open(argv[argc - 1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || chdir("/") || flock(dir, LOCK_EX | LOCK_NB) || !faccessat(dir, "exit", F_OK, 0))
        return 3; /* another has it, or it has ended */
    if (!record("supervisor", self))
        return 3;
    exit_file = openat(dir, "exit.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (exit_file < 0 || (fallocate(exit_file, 0, 0, 4096) && errno == ENOSPC))
        return 4; /* room for the end is set aside before anything starts */
    failed = mmap(NULL, sizeof *failed, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (failed == MAP_FAILED)
        return 3;
    work = openat(dir, "work", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int signals = listen_for_signals();
    started_ms = now_ms(CLOCK_MONOTONIC);
    if (signals < 0 || !read_spec())
        failed->stage = "setup", failed->number = errno;
    else if ((user ? read_user(user) : (void)0), start_task()) {
        record("task", task);
        run(signals);
    } else if (task > 0)
        waitpid(task, &task_status, 0);
    write_exit();
}
