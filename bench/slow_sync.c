/* Preloaded, it makes each fsync, fdatasync and asynchronous fdatasync take KILONOVA_SYNC_DELAY_US microseconds longer: a slower disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void delay(void) {
    const char *text = getenv("KILONOVA_SYNC_DELAY_US");
    if (text)
        usleep((useconds_t)atoi(text));
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    delay();
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    delay();
    return real(fd);
}

static long (*real_syscall)(long, ...);

struct late {
    long context;
    struct iocb *block;
};

/* The operation reaches the kernel when the delay is over; whoever asked for it goes on meanwhile. */
static void *submit(void *argument) {
    struct late late = *(struct late *)argument;
    struct iocb *blocks[1] = {late.block};
    free(argument);
    delay();
    if (real_syscall(SYS_io_submit, late.context, 1L, blocks) != 1)
        abort();
    return NULL;
}

long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (!real_syscall)
        real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_io_submit && b == 1 && ((struct iocb **)c)[0]->aio_lio_opcode == IOCB_CMD_FDSYNC && getenv("KILONOVA_SYNC_DELAY_US")) {
        struct late *late = malloc(sizeof *late);
        pthread_t thread;
        if (!late) {
            errno = EAGAIN;
            return -1;
        }
        late->context = a;
        late->block = ((struct iocb **)c)[0];
        if (pthread_create(&thread, NULL, submit, late)) {
            free(late);
            errno = EAGAIN;
            return -1;
        }
        pthread_detach(thread);
        return 1;
    }
    return real_syscall(number, a, b, c, d, e, f);
}
