/* Preloaded into a program under test: notes how long each file was when it was last synced.
   One line per successful sync, "LENGTH PATH", is appended to the file named by POWER_LOG. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void note(int file) {
  const char *log = getenv("POWER_LOG");
  char link[64], path[PATH_MAX], line[PATH_MAX + 32];
  struct stat status;
  if (!log || fstat(file, &status) || !S_ISREG(status.st_mode)) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return;
  path[length] = 0;
  int size = snprintf(line, sizeof line, "%lld %s\n", (long long)status.st_size, path);
  int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (out < 0) return;
  if (write(out, line, size) != size) abort();
  close(out);
}

static int sync_as(const char *name, int file) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (!real) abort();
  int result = real(file);
  if (result == 0) note(file);
  return result;
}

int fsync(int file) { return sync_as("fsync", file); }
int fdatasync(int file) { return sync_as("fdatasync", file); }
