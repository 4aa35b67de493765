/* A network file system without locks, for LD_PRELOAD.

flock and lockf keep nobody out. A file below $LATE_FOLDER that another process has made, renamed or linked is not there
for its first 3 s (LATE_S): it is not opened, not listed, and nothing is known of it. link and rename are those of the
server, which knows all files at once. With NO_LINKS in the environment there are no hard links. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 65536
static ino_t mine[MOST]; /* files that this process has opened to write, or renamed */
static int n_mine;

static int raw_stat(int folder, const char *path, struct stat *found) {
    return syscall(SYS_newfstatat, folder, path, found, 0);
}

static int is_late(int folder, const char *path) {
    const char *below = getenv("LATE_FOLDER"), *seconds = getenv("LATE_S");
    struct stat found;
    struct timespec now;
    char link[64], place[4096];
    if (!below || !path) return 0;
    if (path[0] != '/' && folder != AT_FDCWD) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, place, sizeof place - 1);
        if (n < 0) return 0;
        place[n] = 0;
        if (strncmp(place, below, strlen(below))) return 0;
    } else if (strncmp(path, below, strlen(below))) return 0;
    if (raw_stat(folder, path, &found) || !S_ISREG(found.st_mode)) return 0;
    for (int i = 0; i < n_mine; i++)
        if (mine[i] == found.st_ino) return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    double age = (now.tv_sec - found.st_ctim.tv_sec) + 1e-9 * (now.tv_nsec - found.st_ctim.tv_nsec);
    return age < (seconds ? atof(seconds) : 3.0);
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (!(flags & O_CREAT) && is_late(folder, path)) { /* who may make it asks the server */
        errno = ENOENT;
        return -1;
    }
    int handle = syscall(SYS_openat, folder, path, flags, mode);
    struct stat found;
    if (handle >= 0 && writes && !syscall(SYS_fstat, handle, &found) && n_mine < MOST) mine[n_mine++] = found.st_ino;
    return handle;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, int); va_end(a); }
int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }

static int looked_up(int folder, const char *path, struct stat *found, int flags) {
    if (is_late(folder, path)) {
        errno = ENOENT;
        return -1;
    }
    return syscall(SYS_newfstatat, folder, path, found, flags);
}
int stat(const char *path, struct stat *found) { return looked_up(AT_FDCWD, path, found, 0); }
int lstat(const char *path, struct stat *found) { return looked_up(AT_FDCWD, path, found, AT_SYMLINK_NOFOLLOW); }
int fstatat(int folder, const char *path, struct stat *found, int flags) { return looked_up(folder, path, found, flags); }
int stat64(const char *path, struct stat64 *found) { return looked_up(AT_FDCWD, path, (struct stat *)found, 0); }
int lstat64(const char *path, struct stat64 *found) { return looked_up(AT_FDCWD, path, (struct stat *)found, AT_SYMLINK_NOFOLLOW); }
int fstatat64(int folder, const char *path, struct stat64 *found, int flags) { return looked_up(folder, path, (struct stat *)found, flags); }

struct dirent *readdir(DIR *folder) {
    static struct dirent *(*next)(DIR *);
    if (!next) next = dlsym(RTLD_NEXT, "readdir");
    struct dirent *entry;
    while ((entry = next(folder)) && is_late(dirfd(folder), entry->d_name)) {}
    return entry;
}
struct dirent64 *readdir64(DIR *folder) {
    static struct dirent64 *(*next)(DIR *);
    if (!next) next = dlsym(RTLD_NEXT, "readdir64");
    struct dirent64 *entry;
    while ((entry = next(folder)) && is_late(dirfd(folder), entry->d_name)) {}
    return entry;
}

int flock(int handle, int operation) { (void)handle; (void)operation; return 0; }
int lockf(int handle, int command, off_t length) { (void)handle; (void)command; (void)length; return 0; }
int lockf64(int handle, int command, off64_t length) { (void)handle; (void)command; (void)length; return 0; }

int link(const char *from, const char *to) {
    if (getenv("NO_LINKS")) {
        errno = EPERM;
        return -1;
    }
    return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int rename(const char *from, const char *to) {
    struct stat found;
    int code = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!code && !raw_stat(AT_FDCWD, to, &found) && n_mine < MOST) mine[n_mine++] = found.st_ino;
    return code;
}
