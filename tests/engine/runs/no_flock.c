/* A libc whose flock works nowhere, as on some NFS mounts: for LD_PRELOAD. */
#include <errno.h>

int flock(int fd, int operation)
{
    (void)fd;
    (void)operation;
    errno = ENOLCK;
    return -1;
}
