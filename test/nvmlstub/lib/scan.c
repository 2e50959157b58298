/* The scanner: finds the processes that match lines are about. It reads /proc
 * every so often and waits for the end of what it has found with pidfds. */
#define _GNU_SOURCE
#include "world.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define YOUNG (2 * SECOND) /* so long after it was first seen, exec is likely */
#define REREAD SECOND      /* and so often later */
#define MAX_SEEN 32768

struct seen {
	uint32_t pid;
	ino_t inode;
	int64_t first, read;
	uint64_t hash; /* of its command line when it was last matched; 0: not yet */
	uint64_t life; /* 0: no line is about it */
	int fd;        /* −1: none */
	bool here;
};

struct scanner {
	char procfs[MAX_TEXT];
	int64_t every;
	uint64_t version;
	struct seen *seen; /* by pid */
	size_t count, size;
	char command[4096];
};

/* read_file reads /proc/PID/NAME as text. */
static ssize_t read_file(const struct scanner *s, uint32_t pid, const char *name, char *to, size_t size)
{
	char path[MAX_TEXT + 64];
	snprintf(path, sizeof path, "%s/%u/%s", s->procfs, pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, to, size - 1);
	close(fd);
	to[n > 0 ? n : 0] = '\0';
	return n;
}

/* read_command reads a command line, each argument followed by a blank. */
static bool read_command(struct scanner *s, uint32_t pid)
{
	ssize_t n = read_file(s, pid, "cmdline", s->command, sizeof s->command);
	for (ssize_t i = 0; i < n; i++)
		if (s->command[i] == '\0')
			s->command[i] = ' ';
	return n > 0;
}

/* started is when a process started: field 22 of its stat, in clock ticks. */
static int64_t started(const struct scanner *s, uint32_t pid, int64_t now)
{
	char stat[1024], *c;
	struct timespec up;
	if (read_file(s, pid, "stat", stat, sizeof stat) <= 0 || (c = strrchr(stat, ')')) == NULL)
		return now;
	for (int field = 2; field < 22 && c != NULL; field++)
		c = strchr(c + 1, ' ');
	if (c == NULL || clock_gettime(CLOCK_BOOTTIME, &up) != 0)
		return now;
	int64_t ticks = strtoll(c, NULL, 10);
	int64_t at = now - (up.tv_sec * SECOND + up.tv_nsec) + ticks * (SECOND / sysconf(_SC_CLK_TCK));
	return at < now ? at : now;
}

static void end(struct seen *p, int64_t now)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->life != 0) {
		world_lock();
		life_end(p->life, now);
		world_unlock();
	}
	p->life = 0;
	p->fd = -1;
}

static uint64_t hash(const char *text)
{
	uint64_t h = 14695981039346656037ULL; /* FNV-1a */
	for (; *text != '\0'; text++)
		h = (h ^ (unsigned char)*text) * 1099511628211ULL;
	return h | 1;
}

/* look reads what a process is called, and begins its life with us if that is
 * new and a line is about it. A process changes its name by exec. */
static void look(struct scanner *s, struct seen *p, int64_t now)
{
	p->read = now;
	if (!read_command(s, p->pid)) {
		end(p, now);
		return;
	}
	uint64_t name = hash(s->command);
	if (name == p->hash)
		return;
	end(p, now);
	int fd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	int64_t at = started(s, p->pid, now);
	/* The pid could have become another's before it was held on to. */
	if (read_command(s, p->pid) && hash(s->command) == name) {
		p->hash = name;
		world_lock();
		p->life = life_begin(p->pid, at, s->command);
		world_unlock();
	}
	if (p->life != 0)
		p->fd = fd;
	else if (fd >= 0)
		close(fd);
}

static int by_pid(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;
	return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static void visit(struct scanner *s, size_t known, const struct dirent *entry, int64_t now)
{
	struct seen key = {.pid = (uint32_t)strtoul(entry->d_name, NULL, 10)};
	if (!isdigit((unsigned char)entry->d_name[0]) || key.pid == (uint32_t)getpid())
		return;
	struct seen *p = known == 0 ? NULL : bsearch(&key, s->seen, known, sizeof key, by_pid);
	if (p != NULL && p->inode != entry->d_ino && p->life == 0)
		p->first = p->read = 0, p->hash = 0; /* the pid may be another's */
	if (p == NULL) {
		if (s->count == MAX_SEEN)
			return;
		if (s->count == s->size) {
			s->size = s->size == 0 ? 512 : 2 * s->size;
			s->seen = realloc(s->seen, s->size * sizeof key);
			if (s->seen == NULL)
				abort();
		}
		p = &s->seen[s->count++];
		*p = (struct seen){.pid = key.pid, .fd = -1};
	}
	p->here = true;
	p->inode = entry->d_ino;
	if (p->first == 0)
		p->first = now;
	if (p->read == 0 || now - p->first < YOUNG || now - p->read >= REREAD)
		look(s, p, now);
}

static void scan(struct scanner *s, int64_t now)
{
	DIR *dir = opendir(s->procfs);
	size_t known = s->count, kept = 0;
	if (dir == NULL)
		return;
	for (size_t i = 0; i < s->count; i++)
		s->seen[i].here = false;
	for (struct dirent *e; (e = readdir(dir)) != NULL;)
		visit(s, known, e, now);
	closedir(dir);
	for (size_t i = 0; i < s->count; i++) {
		if (!s->seen[i].here)
			end(&s->seen[i], now);
		else
			s->seen[kept++] = s->seen[i];
	}
	s->count = kept;
	if (kept > 0)
		qsort(s->seen, kept, sizeof *s->seen, by_pid);
}

/* settle waits until the next scan is due, or a process that matters ends. */
static void settle(struct scanner *s, int64_t until)
{
	struct pollfd *fds = calloc(s->count + 1, sizeof *fds);
	nfds_t n = 0;
	for (size_t i = 0; fds != NULL && i < s->count; i++)
		if (s->seen[i].fd >= 0)
			fds[n++] = (struct pollfd){.fd = s->seen[i].fd, .events = POLLIN};
	int64_t left = until - wall();
	if (left < MS || left > s->every)
		left = left < MS ? MS : s->every;
	poll(fds, n, (int)(left / MS));
	int64_t now = wall();
	for (nfds_t f = 0; f < n; f++)
		for (size_t i = 0; fds[f].revents != 0 && i < s->count; i++)
			if (s->seen[i].fd == fds[f].fd) {
				end(&s->seen[i], now);
				break;
			}
	free(fds);
}

void *scan_processes(void *unused)
{
	static struct scanner s; /* one thread at a time; what it knows outlives it */
	int64_t next = 0;
	(void)unused;
	for (;;) {
		world_lock();
		bool stop = world_stopping();
		bool anew = s.version != world_version();
		s.version = world_version();
		s.every = world_scenario()->scan;
		strcpy(s.procfs, world_scenario()->procfs);
		world_unlock();
		if (stop)
			return NULL;
		for (size_t i = 0; i < s.count && anew; i++)
			if (s.seen[i].life == 0) /* the new scenario may be about it */
				s.seen[i].read = 0, s.seen[i].hash = 0;
		int64_t now = wall();
		if (anew || now >= next || now < next - s.every) {
			scan(&s, now);
			next = now + s.every;
		}
		settle(&s, next);
	}
}
