/* A disk that fails at a chosen operation: preloaded into a process, it counts what the process does to files below one
 * directory, and at operation number N it kills, tears, shortens or refuses.
 *
 * It sees system calls only: a mapped page (SQLite's -shm) is written without one. It keeps its books in a mapped file,
 * so that they survive the SIGKILL: u64 counter, u64 fired at (0: not yet), then what that was, as text.
 *
 *   FAULTIO_DIR   the directory whose files count          FAULTIO_AT    the operation that fails; 0 only counts
 *   FAULTIO_BOOK  the mapped file                          FAULTIO_LIFT  a file: once it exists a sticky fault is over
 *   FAULTIO_MODE  kill after torn short eio eio-sticky enospc enospc-sticky lost
 *   FAULTIO_NOW   a mapped file of two longs that change as it runs: by how many milliseconds the wall clock is wrong (the
 *                 other clocks are right), and how many milliseconds a sync takes longer
 *
 * `lost`: from there on syncs fail, and what they were to write is not on the disk, though it can still be read: so Linux
 * does it. Which bytes these are, unless they are written anew, stands in the book, and a power cut takes them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum mode { NONE, KILL, AFTER, TORN, SHORT, EIO_ONCE, EIO_STICKY, FULL_ONCE, FULL_STICKY, LOST };
enum what { WRITE, SYNC, TRUNCATE, RENAME, UNLINK, CREATE };
/* Bytes of a file that were written and not synced yet, or whose sync failed: `lost` is what a power cut takes away. */
struct range { unsigned long inode, from, count, lost; };
#define RANGES 32000
struct book { _Atomic unsigned long count; _Atomic unsigned long fired; char what[4080]; struct range ranges[RANGES]; };

static struct book *book;
struct now { _Atomic long wrong, slow; };
static const struct now *now;
static unsigned long ranges;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *dir, *lift;
static size_t dir_length;
static unsigned long at;
static enum mode mode;

#define REAL(name) ((__typeof__(&name))next(#name))
static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

/* A clock that is stepped while the process looks at it. The system call is asked itself, so that the first look may come
 * before anything is set up. */
static long stepped(void) { return now ? atomic_load(&now->wrong) : 0; }
static int clock_of(clockid_t which, struct timespec *seen) {
    int answer = (int)syscall(SYS_clock_gettime, which, seen);
    long millis = which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE ? stepped() : 0;
    if (answer || !millis) return answer;
    long nanos = seen->tv_nsec + millis % 1000 * 1000000;
    seen->tv_sec += millis / 1000 + (nanos < 0 ? -1 : nanos / 1000000000);
    seen->tv_nsec = nanos < 0 ? nanos + 1000000000 : nanos % 1000000000;
    return 0;
}
int clock_gettime(clockid_t which, struct timespec *seen) { return clock_of(which, seen); }
int gettimeofday(struct timeval *restrict seen, void *restrict zone) {
    struct timespec is;
    (void)zone;
    if (clock_of(CLOCK_REALTIME, &is)) return -1;
    *seen = (struct timeval){is.tv_sec, is.tv_nsec / 1000};
    return 0;
}
time_t time(time_t *seen) {
    struct timespec is;
    if (clock_of(CLOCK_REALTIME, &is)) return -1;
    if (seen) *seen = is.tv_sec;
    return is.tv_sec;
}

static void *mapped(const char *path, size_t size) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) abort();
    syscall(SYS_close, fd);
    return at;
}

__attribute__((constructor)) static void start(void) {
    static const char *const words[] = {"", "kill", "after", "torn", "short", "eio", "eio-sticky", "enospc", "enospc-sticky", "lost"};
    const char *path = getenv("FAULTIO_BOOK"), *word = getenv("FAULTIO_MODE"), *number = getenv("FAULTIO_AT");
    dir = getenv("FAULTIO_DIR");
    lift = getenv("FAULTIO_LIFT");
    if (!dir || !path) {
        dir = NULL;
        return;
    }
    book = mapped(path, sizeof(struct book));
    if (getenv("FAULTIO_NOW")) now = mapped(getenv("FAULTIO_NOW"), sizeof *now);
    at = number ? strtoul(number, NULL, 10) : 0;
    for (int i = 1; word && i <= LOST; i++)
        if (!strcmp(word, words[i])) mode = i;
    dir_length = strlen(dir);
}

static int ours(const char *path) {
    return dir_length && !strncmp(path, dir, dir_length) && (path[dir_length] == '/' || !path[dir_length]);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

/* What becomes of one operation: 0 let it be, 1 do half of it and die, 2 do half of it, 3 do it and die, -errno refuse it. */
static int fate(enum what what, const char *name, const char *path) {
    unsigned long number = atomic_fetch_add(&book->count, 1) + 1;
    if (!at || number < at) return 0;
    int sticky = mode == EIO_STICKY || mode == FULL_STICKY || mode == LOST;
    if (number > at && !sticky) return 0;
    if (sticky && lift && !syscall(SYS_access, lift, F_OK)) return 0;
    int full = mode == FULL_ONCE || mode == FULL_STICKY;
    /* A full disk still lets go of things, and files of holes need no room. A sync may find that there is none (on a
     * network, say), but not for long: SQLite calls that an I/O error, and so does whoever asks it. */
    if (full && (what == UNLINK || what == TRUNCATE || (what == SYNC && sticky))) return 0;
    if ((mode == SHORT && what != WRITE) || (mode == LOST && what != SYNC)) return 0;
    if (!atomic_exchange(&book->fired, number)) snprintf(book->what, sizeof book->what, "%s %s", name, path);
    switch (mode) {
        case KILL: die(); return 0;
        case AFTER: return 3;
        case TORN: return what == WRITE ? 1 : 3;
        case SHORT: return 2;
        case EIO_ONCE: case EIO_STICKY: case LOST: return -EIO;
        case FULL_ONCE: case FULL_STICKY: return -ENOSPC;
        case NONE: return 0;
    }
    return 0;
}

static unsigned long inode_of(int fd) {
    struct stat seen;
    return syscall(SYS_fstat, fd, &seen) ? 0 : seen.st_ino;
}

/* What is written anew, or cut off, is neither unsynced nor lost as it was. */
static void forget(unsigned long inode, unsigned long from, unsigned long to) {
    for (unsigned long i = 0; i < ranges; i++) {
        struct range *range = &book->ranges[i];
        if (range->inode == inode && range->from >= from && range->from + range->count <= to) *range = book->ranges[--ranges], i--;
    }
    if (ranges < RANGES) book->ranges[ranges].inode = 0;
}

static void wrote(int fd, long from, long count) {
    if (mode != LOST || count <= 0) return;
    pthread_mutex_lock(&turn);
    unsigned long inode = inode_of(fd);
    forget(inode, from, from + count);
    if (ranges + 1 < RANGES) {
        book->ranges[ranges++] = (struct range){inode, from, count, 0};
        book->ranges[ranges].inode = 0;
    }
    pthread_mutex_unlock(&turn);
}

static void synced(int fd, int well) {
    if (mode != LOST) return;
    pthread_mutex_lock(&turn);
    unsigned long inode = inode_of(fd);
    for (unsigned long i = 0; i < ranges; i++) {
        struct range *range = &book->ranges[i];
        if (range->inode != inode || range->lost) continue;
        if (well) *range = book->ranges[--ranges], i--;
        else range->lost = 1;
    }
    if (ranges < RANGES) book->ranges[ranges].inode = 0;
    pthread_mutex_unlock(&turn);
}

static void cut(int fd, long to) {
    if (mode != LOST) return;
    pthread_mutex_lock(&turn);
    forget(inode_of(fd), to, ~0UL);
    pthread_mutex_unlock(&turn);
}

static int fate_of_fd(enum what what, const char *name, int fd) {
    char path[PATH_MAX];
    int before = errno, found = path_of(fd, path) && ours(path);
    errno = before;
    long slow = found && what == SYNC && now ? atomic_load(&now->slow) : 0;
    struct timespec span = {slow / 1000, slow % 1000 * 1000000};
    while (slow > 0 && syscall(SYS_nanosleep, &span, &span) && errno == EINTR);
    errno = before;
    return found ? fate(what, name, path) : 0;
}

static int fate_of_path(enum what what, const char *name, const char *path) {
    char whole[PATH_MAX * 2];
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path[0] == '.' && path[1] == '/' ? path + 2 : path);
        path = whole;
    }
    return ours(path) ? fate(what, name, path) : 0;
}

#define PLAIN(fate_now, call)                                  \
    do {                                                       \
        int f_ = (fate_now);                                   \
        if (f_ < 0) { errno = -f_; return -1; }                \
        __typeof__(call) r_ = (call);                          \
        if (f_ == 3 || f_ == 1) die();                         \
        return r_;                                             \
    } while (0)

#define CARRIES(name, fd, whole, half)                         \
    do {                                                       \
        int f_ = fate_of_fd(WRITE, name, fd);                  \
        if (f_ < 0) { errno = -f_; return -1; }                \
        ssize_t r_ = f_ == 1 || f_ == 2 ? (half) : (whole);    \
        if (f_ == 1 || f_ == 3) die();                         \
        return r_;                                             \
    } while (0)

/* Half, but never nothing: a write of nothing is no short write. */
static size_t half_of(size_t count) { return count > 1 ? count / 2 : count; }

ssize_t write(int fd, const void *from, size_t count) {
    CARRIES("write", fd, REAL(write)(fd, from, count), REAL(write)(fd, from, half_of(count)));
}
ssize_t pwrite(int fd, const void *from, size_t count, off_t to) {
    CARRIES("pwrite", fd, REAL(pwrite)(fd, from, count, to), REAL(pwrite)(fd, from, half_of(count), to));
}
ssize_t pwrite64(int fd, const void *from, size_t count, off64_t to) {
    wrote(fd, to, count);
    CARRIES("pwrite64", fd, REAL(pwrite64)(fd, from, count, to), REAL(pwrite64)(fd, from, half_of(count), to));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    CARRIES("writev", fd, REAL(writev)(fd, parts, count), REAL(write)(fd, parts[0].iov_base, half_of(parts[0].iov_len)));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t to) {
    CARRIES("pwritev", fd, REAL(pwritev)(fd, parts, count, to),
            REAL(pwrite)(fd, parts[0].iov_base, half_of(parts[0].iov_len), to));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t to) {
    CARRIES("pwritev64", fd, REAL(pwritev64)(fd, parts, count, to),
            REAL(pwrite64)(fd, parts[0].iov_base, half_of(parts[0].iov_len), to));
}
static int sync_of(const char *name, int fd, int (*real)(int)) {
    int f = fate_of_fd(SYNC, name, fd);
    if (f < 0) {
        synced(fd, 0);
        errno = -f;
        return -1;
    }
    int answer = real(fd);
    synced(fd, !answer);
    if (f == 3 || f == 1) die();
    return answer;
}
int fsync(int fd) { return sync_of("fsync", fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_of("fdatasync", fd, REAL(fdatasync)); }
int ftruncate(int fd, off_t to) { PLAIN(fate_of_fd(TRUNCATE, "ftruncate", fd), REAL(ftruncate)(fd, to)); }
int ftruncate64(int fd, off64_t to) {
    cut(fd, to);
    PLAIN(fate_of_fd(TRUNCATE, "ftruncate64", fd), REAL(ftruncate64)(fd, to));
}
int fallocate(int fd, int how, off_t from, off_t count) {
    PLAIN(fate_of_fd(CREATE, "fallocate", fd), REAL(fallocate)(fd, how, from, count));
}
int fallocate64(int fd, int how, off64_t from, off64_t count) {
    PLAIN(fate_of_fd(CREATE, "fallocate64", fd), REAL(fallocate64)(fd, how, from, count));
}
/* These two answer with the number of the error itself. */
int posix_fallocate(int fd, off_t from, off_t count) {
    int f = fate_of_fd(CREATE, "posix_fallocate", fd);
    if (f < 0) return -f;
    int answer = REAL(posix_fallocate)(fd, from, count);
    if (f) die();
    return answer;
}
int posix_fallocate64(int fd, off64_t from, off64_t count) {
    int f = fate_of_fd(CREATE, "posix_fallocate64", fd);
    if (f < 0) return -f;
    int answer = REAL(posix_fallocate64)(fd, from, count);
    if (f) die();
    return answer;
}
int rename(const char *from, const char *to) { PLAIN(fate_of_path(RENAME, "rename", to), REAL(rename)(from, to)); }
int renameat(int a, const char *from, int b, const char *to) {
    PLAIN(fate_of_path(RENAME, "renameat", to), REAL(renameat)(a, from, b, to));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned how) {
    PLAIN(fate_of_path(RENAME, "renameat2", to), REAL(renameat2)(a, from, b, to, how));
}
/* What is not there cannot be removed: no change of the disk, no point. */
static int there(const char *path) { return !syscall(SYS_access, path, F_OK); }
int unlink(const char *path) {
    PLAIN(there(path) ? fate_of_path(UNLINK, "unlink", path) : 0, REAL(unlink)(path));
}
int unlinkat(int in, const char *path, int how) {
    PLAIN(there(path) ? fate_of_path(UNLINK, "unlinkat", path) : 0, REAL(unlinkat)(in, path, how));
}
int mkdir(const char *path, mode_t bits) {
    PLAIN(there(path) ? 0 : fate_of_path(CREATE, "mkdir", path), REAL(mkdir)(path, bits));
}

/* Opening counts where it creates. */
#define OPENS(name, in, path, how, call)                                                             \
    do {                                                                                             \
        mode_t bits = 0;                                                                             \
        if ((how) & (O_CREAT | __O_TMPFILE)) {                                                       \
            va_list more;                                                                            \
            va_start(more, how);                                                                     \
            bits = va_arg(more, mode_t);                                                             \
            va_end(more);                                                                            \
        }                                                                                            \
        (void)bits;                                                                                  \
        int creates = ((how) & O_CREAT) && !there(path);                                             \
        PLAIN(creates ? fate_of_path(CREATE, name, path) : 0, call);                                 \
    } while (0)
int open(const char *path, int how, ...) { OPENS("open", AT_FDCWD, path, how, REAL(open)(path, how, bits)); }
int open64(const char *path, int how, ...) { OPENS("open64", AT_FDCWD, path, how, REAL(open64)(path, how, bits)); }
int openat(int in, const char *path, int how, ...) { OPENS("openat", in, path, how, REAL(openat)(in, path, how, bits)); }
int openat64(int in, const char *path, int how, ...) {
    OPENS("openat64", in, path, how, REAL(openat64)(in, path, how, bits));
}
