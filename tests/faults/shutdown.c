/* Takes the power from a file system: ext4 stops at once and writes nothing more, not even its own log. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define EXT4_IOC_SHUTDOWN _IOR('X', 125, uint32_t)
#define NO_LOG_FLUSH 2

int main(int count, char **words) {
    uint32_t how = NO_LOG_FLUSH;
    int fd = count == 2 ? open(words[1], O_RDONLY) : -1;
    if (fd < 0 || ioctl(fd, EXT4_IOC_SHUTDOWN, &how)) {
        perror("shutdown");
        return 1;
    }
    return 0;
}
