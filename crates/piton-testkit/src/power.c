/* Preloaded into a program under test: notes how long each file was when it was last synced.
   One line per successful sync, "LENGTH DEVICE INODE", is appended to the file named by POWER_LOG:
   not the path, because a file may be synced under one name and renamed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void note(int file) {
  const char *log = getenv("POWER_LOG");
  char line[96];
  struct stat status;
  if (!log || fstat(file, &status) || !S_ISREG(status.st_mode)) return;
  int size = snprintf(line, sizeof line, "%lld %llu %llu\n", (long long)status.st_size,
                      (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
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
