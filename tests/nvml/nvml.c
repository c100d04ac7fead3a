/* The part of NVIDIA's management library that pynvml calls for us, with values from a text file.
 *
 * The file is named by FAKE_NVML_VALUES and read again at every call, so a test changes the machine by writing it.
 * A line is a key, a space and a value: `gpu0.power 198200`. A value `!15` makes the call return that NVML error. A key
 * that is not there is NVML_ERROR_NOT_SUPPORTED. Signatures and numbers are those of nvml.h (API 12), written anew.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9
};

enum { MOST_GPUS = 16, MOST_INSTANCES = 7, LONGEST_VALUE = 8192 };

static const unsigned long long VALUE_NOT_AVAILABLE = ~0ULL;

/* What a handle points to: the prefix of the device's keys. */
struct device {
    char prefix[32];
};

struct memory {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

struct utilization {
    unsigned int gpu, memory;
};

struct temperature {
    unsigned int version, sensor;
    int temperature;
};

struct process {
    unsigned int pid;
    unsigned long long used_memory;
    unsigned int gpu_instance, compute_instance;
};

static struct device gpus[MOST_GPUS];
static struct device instances[MOST_GPUS][MOST_INSTANCES];
static int started;

/* Puts the value of `key` into `value`; returns SUCCESS, or the error that the file holds for it. */
static int look_up(const char *key, char value[LONGEST_VALUE])
{
    const char *path = getenv("FAKE_NVML_VALUES");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LONGEST_VALUE];
    size_t length = strlen(key);
    int result = NOT_SUPPORTED;

    if (!file)
        return DRIVER_NOT_LOADED;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0 || line[length] != ' ')
            continue;
        line[strcspn(line, "\n")] = '\0';
        strcpy(value, line + length + 1);
        result = value[0] == '!' ? atoi(value + 1) : SUCCESS;
        break;
    }
    fclose(file);
    return result;
}

/* The value of a device's `name`; a device that is `lost` answers nothing else. */
static int of_device(const struct device *device, const char *name, char value[LONGEST_VALUE])
{
    char key[64];
    int result;

    if (!started)
        return UNINITIALIZED;
    if (!device)
        return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "%s.lost", device->prefix);
    result = look_up(key, value);
    if (result != NOT_SUPPORTED)
        return result;
    snprintf(key, sizeof key, "%s.%s", device->prefix, name);
    return look_up(key, value);
}

static int number_of(const struct device *device, const char *name, unsigned long long *number)
{
    char value[LONGEST_VALUE];
    int result = of_device(device, name, value);

    if (result == SUCCESS)
        *number = strtoull(value, NULL, 10);
    return result;
}

static int unsigned_of(const struct device *device, const char *name, unsigned int *number)
{
    unsigned long long wide = 0;
    int result = number_of(device, name, &wide);

    if (result == SUCCESS)
        *number = (unsigned int)wide;
    return result;
}

static int text_of(const struct device *device, const char *name, char *text, unsigned int room)
{
    char value[LONGEST_VALUE];
    int result = of_device(device, name, value);

    if (result != SUCCESS)
        return result;
    if (strlen(value) >= room)
        return INSUFFICIENT_SIZE;
    strcpy(text, value);
    return SUCCESS;
}

/* The list is `pid:bytes pid:bytes ...`, with `na` for memory that the driver does not tell. */
static int processes_of(const struct device *device, const char *name, unsigned int *count, struct process *list)
{
    char value[LONGEST_VALUE];
    unsigned int room = *count, found = 0;
    int result = of_device(device, name, value);

    if (result != SUCCESS)
        return result;
    for (char *word = strtok(value, " "); word; word = strtok(NULL, " "), found++) {
        if (!list || found >= room)
            continue;
        char *size = strchr(word, ':') + 1;
        list[found].pid = (unsigned int)strtoul(word, NULL, 10);
        list[found].used_memory = strcmp(size, "na") ? strtoull(size, NULL, 10) : VALUE_NOT_AVAILABLE;
        list[found].gpu_instance = list[found].compute_instance = ~0U;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags)
{
    char value[LONGEST_VALUE];
    int result = look_up("init", value);

    (void)flags;
    if (result == SUCCESS)
        started = 1;
    return result;
}

int nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

int nvmlShutdown(void)
{
    return started ? SUCCESS : UNINITIALIZED;
}

const char *nvmlErrorString(int result)
{
    return result == SUCCESS ? "Success" : "An error of the fake driver";
}

int nvmlSystemGetDriverVersion(char *version, unsigned int room)
{
    char value[LONGEST_VALUE];
    int result = started ? look_up("driver", value) : UNINITIALIZED;

    if (result == SUCCESS)
        snprintf(version, room, "%s", value);
    return result;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    char value[LONGEST_VALUE];
    int result = started ? look_up("gpus", value) : UNINITIALIZED;

    if (result == SUCCESS)
        *count = (unsigned int)atoi(value);
    return result;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, struct device **device)
{
    unsigned int count = 0;
    int result = nvmlDeviceGetCount_v2(&count);
    char value[LONGEST_VALUE];

    if (result != SUCCESS)
        return result;
    if (index >= count || index >= MOST_GPUS)
        return INVALID_ARGUMENT;
    snprintf(gpus[index].prefix, sizeof gpus[index].prefix, "gpu%u", index);
    result = of_device(&gpus[index], "handle", value);
    if (result != NOT_SUPPORTED && result != SUCCESS)
        return result;
    *device = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetName(const struct device *device, char *name, unsigned int room)
{
    return text_of(device, "name", name, room);
}

int nvmlDeviceGetUUID(const struct device *device, char *uuid, unsigned int room)
{
    return text_of(device, "uuid", uuid, room);
}

int nvmlDeviceGetMemoryInfo(const struct device *device, struct memory *memory)
{
    int result = number_of(device, "total", &memory->total);

    if (result == SUCCESS)
        result = number_of(device, "used", &memory->used);
    memory->free = memory->total - memory->used;
    return result;
}

int nvmlDeviceGetMemoryInfo_v2(const struct device *device, struct memory_v2 *memory)
{
    struct memory plain = {0, 0, 0};
    int result = nvmlDeviceGetMemoryInfo(device, &plain);

    memory->total = plain.total;
    memory->free = plain.free;
    memory->used = plain.used;
    memory->reserved = 0;
    return result;
}

int nvmlDeviceGetUtilizationRates(const struct device *device, struct utilization *rates)
{
    rates->memory = 0;
    return unsigned_of(device, "utilization", &rates->gpu);
}

int nvmlDeviceGetTemperature(const struct device *device, int sensor, unsigned int *degrees)
{
    (void)sensor;
    return unsigned_of(device, "temperature", degrees);
}

/* What takes the place of nvmlDeviceGetTemperature in drivers that no longer have it. */
int nvmlDeviceGetTemperatureV(const struct device *device, struct temperature *reading)
{
    unsigned int degrees = 0;
    int result = unsigned_of(device, "temperature_v", &degrees);

    reading->temperature = (int)degrees;
    return result;
}

int nvmlDeviceGetPowerUsage(const struct device *device, unsigned int *milliwatts)
{
    return unsigned_of(device, "power", milliwatts);
}

int nvmlDeviceGetCudaComputeCapability(const struct device *device, int *major, int *minor)
{
    char value[LONGEST_VALUE];
    int result = of_device(device, "capability", value);

    if (result == SUCCESS && sscanf(value, "%d.%d", major, minor) != 2)
        return NOT_SUPPORTED;
    return result;
}

int nvmlDeviceGetCurrentClocksEventReasons(const struct device *device, unsigned long long *reasons)
{
    return number_of(device, "clocks_event_reasons", reasons);
}

/* The same under the name that drivers before 535 know. */
int nvmlDeviceGetCurrentClocksThrottleReasons(const struct device *device, unsigned long long *reasons)
{
    return number_of(device, "clocks_throttle_reasons", reasons);
}

int nvmlDeviceGetComputeRunningProcesses_v3(const struct device *device, unsigned int *count, struct process *list)
{
    return processes_of(device, "compute", count, list);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(const struct device *device, unsigned int *count, struct process *list)
{
    return processes_of(device, "graphics", count, list);
}

int nvmlDeviceGetMigMode(const struct device *device, unsigned int *current, unsigned int *pending)
{
    int result = unsigned_of(device, "mig_mode", current);

    *pending = *current;
    return result;
}

int nvmlDeviceGetMaxMigDeviceCount(const struct device *device, unsigned int *count)
{
    char value[LONGEST_VALUE];
    int result = of_device(device, "mig_mode", value);

    *count = MOST_INSTANCES;
    return result;
}

int nvmlDeviceGetMigDeviceHandleByIndex(const struct device *device, unsigned int index, struct device **instance)
{
    char value[LONGEST_VALUE];
    int result = of_device(device, "mig_mode", value);
    struct device *asked;

    if (result != SUCCESS)
        return result;
    if (index >= MOST_INSTANCES)
        return INVALID_ARGUMENT;
    asked = &instances[device - gpus][index];
    snprintf(asked->prefix, sizeof asked->prefix, "gpu%u.mig%u", (unsigned int)(device - gpus), index);
    if (of_device(asked, "name", value) != SUCCESS)
        return NOT_FOUND;
    *instance = asked;
    return SUCCESS;
}
