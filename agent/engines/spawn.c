/* shoal-spawn [--socket PATH] AGENT TASKS: start tasks for an agent that may not become another user.
 *
 * The agent talks to the whole network and runs as user AGENT without any right but that. This
 * program talks to nobody but the agent, over a SOCK_SEQPACKET socket (systemd's, or made at PATH),
 * and does what the agent may not, for user TASKS alone:
 *
 *   hello                   answered with `UID GID GROUP,...` of TASKS
 *   start DIR               shoal-supervise for an execution directory, whose files become TASKS'
 *   beside [key=value...]   one command as TASKS, with the three descriptors that come along: its
 *                           `cwd`, each `arg` and `env`, the groups of a task (`cgroup`) that it
 *                           joins, a process in whose sandbox it is to run (`inside`)
 *   give DIR                a directory of AGENT's, itself alone, becomes TASKS'
 *   take DIR                what TASKS left below DIR becomes AGENT's
 *
 * Fields end in NUL. What runs is answered with `ok` and a pidfd, at its end with `ended STATUS`;
 * a command `beside` dies with its connection, a supervisor does not. Every path is walked with the
 * agent's own rights, so it is led nowhere where the agent could not go by itself.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINES_MAX = 4096, MESSAGE_BYTES = 1 << 18, FIELDS_MAX = 8192, GROUPS_MAX = 64, DEPTH_MAX = 1024,
       CGROUPS_MAX = 4, DESCRIPTORS = 3 };
static const char CGROUP_ROOT[] = "/sys/fs/cgroup";

struct user { uid_t uid; gid_t gid; gid_t groups[GROUPS_MAX]; size_t count; };
struct line { int socket; pid_t child; bool ties; }; /* ties: the child dies with it */

static struct user agent, tasks;
static struct line lines[LINES_MAX];
static size_t lines_count;
static char message[MESSAGE_BYTES + 1], supervisor[PATH_MAX], as_tasks[1024];
static int nursery = -1; /* control group of version 2 that supervisors are born in */

static void fail(const char *what)
{
    fprintf(stderr, "shoal-spawn: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- users; by the files, since a static program has no name service ---- */

static void find_user(const char *name, struct user *out)
{
    FILE *file = fopen("/etc/passwd", "re");
    struct passwd *one = NULL;
    while (file && (one = fgetpwent(file)) && strcmp(one->pw_name, name)) {}
    if (!one) {
        fprintf(stderr, "shoal-spawn: this device has no user %s\n", name);
        exit(1);
    }
    out->uid = one->pw_uid, out->gid = one->pw_gid;
    fclose(file);
    out->groups[out->count++] = out->gid;
    file = fopen("/etc/group", "re");
    for (struct group *group; file && (group = fgetgrent(file));)
        for (char **member = group->gr_mem; *member; member++)
            if (!strcmp(*member, name) && group->gr_gid != out->gid && out->count < GROUPS_MAX)
                out->groups[out->count++] = group->gr_gid;
    if (file)
        fclose(file);
}

static void become(const struct user *user)
{
    if (setgroups(user->count, user->groups) || setresgid(user->gid, user->gid, user->gid) ||
        setresuid(user->uid, user->uid, user->uid))
        _exit(126);
}

static void hold(uint32_t capabilities)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{capabilities, capabilities, capabilities}, {0, 0, 0}};
    if (syscall(SYS_capset, &head, data))
        _exit(126);
}

/* The agent's user, with these rights and no others of root's. */
static void become_agent(uint32_t capabilities)
{
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    become(&agent);
    hold(capabilities);
}

/* ---- whose files these are ---- */

struct change { uid_t from; const struct user *to; bool taken; };

/* One thing by a descriptor of itself: it cannot be changed for another meanwhile. */
static bool change_owner(int at, const struct stat *found, const struct change *change)
{
    char path[40];
    if (found->st_uid == change->from &&
        fchownat(at, "", change->to->uid, change->to->gid, AT_EMPTY_PATH))
        return false;
    mode_t mode = found->st_mode & 07777, needed = S_ISDIR(found->st_mode) ? 0700 : 0400;
    bool plain = S_ISDIR(found->st_mode) || S_ISREG(found->st_mode);
    if (change->taken && plain && (mode & 0777 & needed) != needed) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", at); /* chmod knows no AT_EMPTY_PATH */
        return chmod(path, (mode & 0777) | needed) == 0;
    }
    return true;
}

/* False where something could not be changed; the rest is. No link is followed. */
static bool walk(int at, const struct change *change, int depth)
{
    struct stat found;
    if (fstat(at, &found))
        return false;
    bool ours = found.st_uid == change->from || found.st_uid == change->to->uid;
    /* Who hands over does it from below, since it may not enter what is not its own any more. */
    if (ours && change->taken && !change_owner(at, &found, change))
        return false;
    bool done = true;
    if (ours && S_ISDIR(found.st_mode)) {
        int inner = depth < DEPTH_MAX ? openat(at, ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        DIR *list = inner >= 0 ? fdopendir(inner) : NULL;
        done = list != NULL;
        for (struct dirent *entry; list && (entry = readdir(list));) {
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                continue;
            int child = openat(inner, entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
            done = child >= 0 && walk(child, change, depth + 1) && done;
            if (child >= 0)
                close(child);
        }
        if (list)
            closedir(list);
    }
    bool linked = S_ISREG(found.st_mode) && found.st_nlink > 1; /* also known elsewhere: not given */
    return (!ours || change->taken || linked || change_owner(at, &found, change)) && done;
}

static bool change_tree(int above, const char *path, const struct change *change)
{
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files))
        files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    int top = openat(above, path, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
    bool done = top >= 0 ? walk(top, change, 0) : errno == ENOENT;
    if (top >= 0)
        close(top);
    return done;
}

/* ---- what is done for the agent; each in a child of its own ---- */

static void take(char *dir)
{
    become_agent(1u << CAP_CHOWN);
    struct change taken = {tasks.uid, &agent, true};
    _exit(!change_tree(AT_FDCWD, dir, &taken));
}

static void give(char *dir)
{
    become_agent(1u << CAP_CHOWN);
    struct change given = {agent.uid, &tasks, false};
    struct stat found;
    int top = open(dir, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);
    _exit(top < 0 || fstat(top, &found) || !change_owner(top, &found, &given));
}

/* What a supervisor becomes its task's user by, and ends all of it. */
static const int kept[] = {CAP_SETUID, CAP_SETGID, CAP_KILL};
static const uint32_t KEPT = 1u << CAP_SETUID | 1u << CAP_SETGID | 1u << CAP_KILL;

static void keep_rights(void)
{
    hold(KEPT);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept[i], 0, 0);
}

static void start(char *dir)
{
    become_agent(KEPT | 1u << CAP_CHOWN);
    struct change given = {agent.uid, &tasks, false};
    int at = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (at < 0 || faccessat(at, "supervisor", F_OK, 0) == 0) /* it is its task's already */
        _exit(3);
    change_tree(at, "work", &given);
    change_tree(at, "tmp", &given);
    keep_rights();
    char *argv[] = {supervisor, "--for", as_tasks, dir, NULL}, *env[] = {NULL};
    execve(supervisor, argv, env);
    _exit(126);
}

/* Its supervisor stays the agent's, out of reach of what it has to end. */
static void beside(char **fields, size_t count, const int *descriptors)
{
    static char *argv[2 * FIELDS_MAX + 8], *env[FIELDS_MAX + 1];
    char *cwd = "/", *inside = "0", *cgroups[CGROUPS_MAX];
    size_t words = 0, variables = 0, groups = 0, args = 0;
    for (size_t i = 0; i < count; i++) {
        if (!strncmp(fields[i], "env=", 4))
            fields[i][3] = ':', env[variables++] = fields[i] + 3; /* as supervise.c takes them */
        else if (!strncmp(fields[i], "cwd=", 4))
            cwd = fields[i] + 4;
        else if (!strncmp(fields[i], "inside=", 7))
            inside = fields[i] + 7;
        else if (!strncmp(fields[i], "cgroup=", 7) && groups < CGROUPS_MAX)
            cgroups[groups++] = fields[i] + 7;
    }
    char *first[] = {supervisor, "--beside", as_tasks, cwd, inside};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++)
        argv[words++] = first[i];
    for (size_t i = 0; i < groups; i++)
        argv[words++] = cgroups[i];
    argv[words++] = "--";
    for (size_t i = 0; i < count; i++)
        if (!strncmp(fields[i], "arg=", 4))
            argv[words++] = fields[i] + 4, args++;
    if (!args)
        _exit(126);
    become_agent(KEPT);
    keep_rights();
    setsid();
    for (int i = 0; i < 3; i++) /* they lie above, so none is lost on the way */
        if (dup2(descriptors[i], i) < 0)
            _exit(126);
    execve(supervisor, argv, env);
    _exit(126);
}

/* ---- connections ---- */

static void answer(int socket, const char *text, int descriptor)
{
    char room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {(char *)text, strlen(text)};
    struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor >= 0) {
        head.msg_control = room, head.msg_controllen = sizeof room;
        struct cmsghdr *beside_it = CMSG_FIRSTHDR(&head);
        beside_it->cmsg_level = SOL_SOCKET, beside_it->cmsg_type = SCM_RIGHTS;
        beside_it->cmsg_len = CMSG_LEN(sizeof descriptor);
        memcpy(CMSG_DATA(beside_it), &descriptor, sizeof descriptor);
    }
    sendmsg(socket, &head, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void refuse(struct line *line, int number)
{
    char text[32];
    snprintf(text, sizeof text, "failed %d", number);
    answer(line->socket, text, -1);
}

static void hang_up(size_t index)
{
    struct line *line = &lines[index];
    if (line->child > 0 && line->ties)
        kill(line->child, SIGTERM); /* it ends all that it started, which nobody else knows */
    close(line->socket);
    *line = lines[--lines_count];
}

/* Into the control group of supervisors at once, where there is one: see born_inside in supervise.c. */
static pid_t split(bool supervises)
{
    struct clone_args how = {.exit_signal = SIGCHLD};
    pid_t child = -1;
    if (supervises && nursery >= 0) {
        how.flags = CLONE_INTO_CGROUP, how.cgroup = (uint64_t)nursery;
        child = (pid_t)syscall(SYS_clone3, &how, sizeof how);
    }
    return child < 0 ? fork() : child;
}

static void carry_out(struct line *line, char **fields, size_t count, const int *descriptors)
{
    const char *what = fields[0];
    bool starts = !strcmp(what, "start") && count == 2, besides = !strcmp(what, "beside") && descriptors[2] >= 0;
    bool takes = !strcmp(what, "take") && count == 2, gives = !strcmp(what, "give") && count == 2;
    if (!strcmp(what, "hello") && count == 1) {
        answer(line->socket, as_tasks, -1);
        return;
    }
    if (line->child || !(starts || besides || takes || gives)) {
        refuse(line, EINVAL);
        return;
    }
    pid_t child = split(starts || besides);
    if (child == 0) {
        sigset_t none;
        sigemptyset(&none);
        if (!starts) /* a TERM that comes early must wait until its supervisor hears it */
            sigprocmask(SIG_SETMASK, &none, NULL);
        if (starts)
            start(fields[1]);
        else if (takes)
            take(fields[1]);
        else if (gives)
            give(fields[1]);
        else
            beside(fields + 1, count - 1, descriptors);
        _exit(126);
    }
    int pidfd = child > 0 ? (int)syscall(SYS_pidfd_open, child, 0) : -1;
    if (pidfd < 0) {
        int number = errno;
        if (child > 0) /* what nobody can watch must not run */
            kill(child, SIGKILL);
        refuse(line, number);
        return;
    }
    line->child = child, line->ties = besides;
    answer(line->socket, "ok", pidfd);
    close(pidfd);
}

static size_t split_fields(ssize_t size, char **fields)
{
    size_t count = 0;
    for (char *at = message; at < message + size && count < FIELDS_MAX; at += strlen(at) + 1)
        fields[count++] = at;
    return count;
}

/* False once the connection is over. */
static bool hear(struct line *line)
{
    static char *fields[FIELDS_MAX];
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
    int descriptors[DESCRIPTORS] = {-1, -1, -1};
    struct iovec part = {message, MESSAGE_BYTES};
    /* CMSG_SPACE is more than three take, for its alignment: told of all of it, the kernel puts a fourth
     * there. What is more than fits it closes. */
    struct msghdr head = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room,
                          .msg_controllen = CMSG_LEN(sizeof descriptors)};
    ssize_t size = recvmsg(line->socket, &head, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size <= 0)
        return size < 0 && (errno == EAGAIN || errno == EINTR);
    struct cmsghdr *along = CMSG_FIRSTHDR(&head);
    if (along && along->cmsg_level == SOL_SOCKET && along->cmsg_type == SCM_RIGHTS)
        memcpy(descriptors, CMSG_DATA(along),
               along->cmsg_len < CMSG_LEN(sizeof descriptors) ? along->cmsg_len - CMSG_LEN(0) : sizeof descriptors);
    message[size] = 0;
    if (head.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        refuse(line, EMSGSIZE);
    else
        carry_out(line, fields, split_fields(size, fields), descriptors);
    for (int i = 0; i < DESCRIPTORS; i++)
        if (descriptors[i] >= 0)
            close(descriptors[i]);
    return true;
}

static void welcome(int listener)
{
    struct ucred who;
    socklen_t size = sizeof who;
    int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (socket < 0)
        return;
    bool known = !getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &size) && (who.uid == agent.uid || !who.uid);
    if (!known || lines_count == LINES_MAX)
        close(socket);
    else
        lines[lines_count++] = (struct line){socket, 0, false};
}

static void reap(void)
{
    int status;
    for (pid_t child; (child = waitpid(-1, &status, WNOHANG)) > 0;)
        for (size_t i = 0; i < lines_count; i++)
            if (lines[i].child == child) {
                char text[32];
                int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                snprintf(text, sizeof text, "ended %d", code);
                lines[i].child = 0;
                answer(lines[i].socket, text, -1);
            }
}

/* ---- control groups: made here, since only root can, and given to the agent ---- */

static void put(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        if (write(file, text, strlen(text)) < 0)
            fprintf(stderr, "shoal-spawn: %s: %s\n", path, strerror(errno));
        close(file);
    }
}

/* Without root's right to pass over owners: what was given in an earlier life is root's again first. */
static void give_group(const char *path, uid_t uid, gid_t gid)
{
    static const char *const files[] = {"", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control", "/tasks"};
    char file[PATH_MAX];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(file, sizeof file, "%s%s", path, files[i]);
        if (chown(file, uid, gid) && errno != ENOENT)
            fprintf(stderr, "shoal-spawn: %s: %s\n", file, strerror(errno));
    }
}

/* A group in a root of the kernel's own, which is 0555: to write there nonetheless is a right of root that
 * this program does not have. But the root is root's, who may open it for that moment; in a container it is
 * open already. Whether the group is there. */
static bool make_group(const char *root, const char *group)
{
    struct stat found;
    if (!mkdir(group, 0755) || errno == EEXIST)
        return true;
    bool shut = errno == EACCES && !stat(root, &found) && !chmod(root, (found.st_mode & 07777) | S_IWUSR);
    bool made = shut && (!mkdir(group, 0755) || errno == EEXIST);
    if (!made && errno != ENOENT) /* no such controller */
        fprintf(stderr, "shoal-spawn: %s: %s\n", group, strerror(errno));
    if (shut && chmod(root, found.st_mode & 07777))
        fprintf(stderr, "shoal-spawn: %s: %s\n", root, strerror(errno));
    return made;
}

/* Whether the kernel has that controller in version 2, and lets the root's groups have it. */
static bool has_controller(const char *name)
{
    char path[PATH_MAX], text[512] = "";
    snprintf(path, sizeof path, "%s/cgroup.controllers", CGROUP_ROOT);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0)
        close(file);
    for (char *word = size > 0 ? strtok(text, " \n") : NULL; word; word = strtok(NULL, " \n"))
        if (!strcmp(word, name))
            return true;
    return false;
}

/* Beside those of systemd, as docker's own are where it makes them itself: tasks must be in none that
 * ends with a service. Version 2 has one tree, version 1 one for each of the three. */
static void make_groups(void)
{
    static const char *const controllers[] = {"memory", "cpu", "pids"};
    char path[PATH_MAX];
    struct stat found;
    snprintf(path, sizeof path, "%s/cgroup.controllers", CGROUP_ROOT);
    if (stat(path, &found)) {
        for (size_t i = 0; i < 3; i++) {
            char root[PATH_MAX - 64];
            snprintf(root, sizeof root, "%s/%s", CGROUP_ROOT, controllers[i]);
            snprintf(path, sizeof path, "%s/shoal", root);
            if (make_group(root, path))
                give_group(path, agent.uid, agent.gid);
        }
        return;
    }
    char base[PATH_MAX - 64];
    snprintf(base, sizeof base, "%s/shoal", CGROUP_ROOT);
    if (!make_group(CGROUP_ROOT, base))
        return;
    give_group(base, 0, 0);
    for (size_t i = 0; i < 3; i++) { /* one by one: a kernel may lack one of them */
        char wanted[16];
        if (!has_controller(controllers[i]))
            continue;
        snprintf(wanted, sizeof wanted, "+%s", controllers[i]);
        snprintf(path, sizeof path, "%s/cgroup.subtree_control", CGROUP_ROOT);
        put(path, wanted);
        snprintf(path, sizeof path, "%s/cgroup.subtree_control", base);
        put(path, wanted);
    }
    snprintf(path, sizeof path, "%s/supervisors", base);
    if (!mkdir(path, 0755) || errno == EEXIST)
        nursery = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    give_group(base, agent.uid, agent.gid);
}

/* ---- its life ---- */

static int own_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        errno = ENAMETOOLONG, fail(path);
    strcpy(address.sun_path, path);
    unlink(path);
    umask(0177);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128) ||
        chown(path, agent.uid, agent.gid))
        fail(path);
    umask(022);
    return listener;
}

static void serve(int listener, int signals)
{
    static struct pollfd fds[LINES_MAX + 2];
    for (;;) {
        fds[0] = (struct pollfd){listener, POLLIN, 0};
        fds[1] = (struct pollfd){signals, POLLIN, 0};
        for (size_t i = 0; i < lines_count; i++)
            fds[i + 2] = (struct pollfd){lines[i].socket, POLLIN, 0};
        size_t polled = lines_count;
        if (poll(fds, polled + 2, -1) < 0)
            continue;
        for (struct signalfd_siginfo got; read(signals, &got, sizeof got) == (ssize_t)sizeof got;)
            if (got.ssi_signo == SIGTERM)
                exit(0); /* supervisors and their tasks run on */
        reap();
        for (size_t i = polled; i-- > 0;) /* backwards: the last takes the place of one that goes */
            if (fds[i + 2].revents && !hear(&lines[i]))
                hang_up(i);
        if (fds[0].revents)
            welcome(listener);
    }
}

static void find_programs(void)
{
    ssize_t size = readlink("/proc/self/exe", supervisor, sizeof supervisor - 32);
    char *end = size > 0 ? (supervisor[size] = 0, strrchr(supervisor, '/')) : NULL;
    if (!end)
        fail("/proc/self/exe");
    strcpy(end, "/shoal-supervise");
    if (access(supervisor, X_OK))
        fail(supervisor);
}

int main(int argc, char **argv)
{
    const char *path = argc == 5 && !strcmp(argv[1], "--socket") ? argv[2] : NULL;
    const char *given = getenv("LISTEN_FDS");
    if (argc != (path ? 5 : 3) || (!path && (!given || strcmp(given, "1")))) {
        fputs("usage: shoal-spawn [--socket PATH] AGENT TASKS (else with a socket from systemd)\n", stderr);
        return 2;
    }
    find_user(argv[argc - 2], &agent);
    find_user(argv[argc - 1], &tasks);
    if (!agent.uid || !tasks.uid || agent.uid == tasks.uid) {
        fputs("shoal-spawn: the agent and its tasks are two users, and neither is root\n", stderr);
        return 2;
    }
    int n = snprintf(as_tasks, sizeof as_tasks, "%u:%u:", tasks.uid, tasks.gid);
    for (size_t i = 0; i < tasks.count; i++)
        n += snprintf(as_tasks + n, sizeof as_tasks - (size_t)n, "%s%u", i ? "," : "", tasks.groups[i]);
    find_programs();
    put("/proc/sys/fs/protected_hardlinks", "1"); /* Debian's own: nobody links what is not his into a task's files */
    make_groups();
    sigset_t heard;
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGTERM);
    sigprocmask(SIG_SETMASK, &heard, NULL);
    int signals = signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
    int listener = path ? own_socket(path) : 3;
    if (signals < 0 || listener < 0 || fcntl(listener, F_SETFD, FD_CLOEXEC) || fcntl(listener, F_SETFL, O_NONBLOCK))
        fail("setup");
    serve(listener, signals);
}
