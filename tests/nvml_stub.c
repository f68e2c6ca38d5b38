/* A libnvidia-ml.so.1 for tests: three GPUs whose power curves are known, and whose failures are steered.

   Every setting is an environment variable NVML_STUB_<NAME> of the form "gpu=number,gpu=number"; tests/nvml.py writes
   them and explains them. Times of failures are seconds since the first nvmlInit. A process may also call
   `nvml_stub_load`, as a workload would, and `nvml_stub_reset`. Signatures are those of NVML; what is not here is "not found". */

#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GPUS = 3, SLICES = 2, CHANGES = 65536, REFRESH_MS = 100 };
enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15
};

/* A handle is a pointer to one of these; slice 0 is the GPU itself, the others are its MIG devices. */
typedef struct { int gpu, slice; } Device;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency;
    unsigned type, result;
    union { double d; unsigned ui; unsigned long ul; unsigned long long ull; long long sll; } value;
} FieldValue;

static const char *const UUIDS[GPUS] = {
    "GPU-1a2b0000-aaaa-4000-8000-000000000000",
    "GPU-1a2b1111-bbbb-4111-8111-111111111111",
    "GPU-3c4d2222-cccc-4222-8222-222222222222",
};
static const char *const NAMES[GPUS] = {"NVIDIA Stub S100", "NVIDIA Stub S200", "NVIDIA Stub S300"};
static Device devices[GPUS][1 + SLICES];
static double started = -1;
static struct { double at, watts; } loads[GPUS][CHANGES];
static int changes[GPUS];
static double asked_reset[GPUS];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* The number steered for a GPU; `skip` passes over earlier entries of the same GPU. */
static double steer_nth(const char *name, int gpu, int skip, double otherwise) {
    char key[64];
    snprintf(key, sizeof key, "NVML_STUB_%s", name);
    const char *text = getenv(key);
    while (text && *text) {
        char *end;
        long which = strtol(text, &end, 10);
        double value = *end == '=' ? strtod(end + 1, &end) : 1;
        if (which == gpu && skip-- == 0) return value;
        text = *end ? end + 1 : end;
    }
    return otherwise;
}

static double steer(const char *name, int gpu, double otherwise) { return steer_nth(name, gpu, 0, otherwise); }

static int after(const char *name, int gpu) { return now() - started >= steer(name, gpu, INFINITY); }

/* -- power and energy -------------------------------------------------------------------------------------------- */

static double load_at(int gpu, double t) {
    double watts = 0;
    for (int i = 0; i < changes[gpu] && loads[gpu][i].at <= t; i++) watts = loads[gpu][i].watts;
    return watts;
}

static double watts_at(int gpu, double t) {
    double period = steer("PERIOD", gpu, 1);
    return steer("WATTS", gpu, 100) + steer("SWING", gpu, 0) * sin(2 * M_PI * t / period) + load_at(gpu, t);
}

/* Exact energy from the clock's zero to t. */
static double joules_at(int gpu, double t) {
    double period = steer("PERIOD", gpu, 1);
    double joules = steer("WATTS", gpu, 100) * t;
    joules += steer("SWING", gpu, 0) * period / (2 * M_PI) * (1 - cos(2 * M_PI * t / period));
    for (int i = 0; i < changes[gpu] && loads[gpu][i].at < t; i++) {
        double until = i + 1 < changes[gpu] && loads[gpu][i + 1].at < t ? loads[gpu][i + 1].at : t;
        joules += loads[gpu][i].watts * (until - loads[gpu][i].at);
    }
    return joules;
}

/* The time of the last refresh, which comes every 100 ms of the clock, later by the GPU's phase in seconds. */
static double refreshed(int gpu, double t) {
    double phase = steer("PHASE", gpu, 0), refresh = REFRESH_MS * 1e-3;
    return floor((t - phase) / refresh) * refresh + phase;
}

void nvml_stub_load(int gpu, double watts) {
    if (changes[gpu] == CHANGES) abort();
    loads[gpu][changes[gpu]].at = now();
    loads[gpu][changes[gpu]++].watts = watts;
}

void nvml_stub_reset(int gpu) { asked_reset[gpu] = now(); }

/* What every call on a device goes through first. */
static int check(const Device *device) {
    if (!device) return INVALID_ARGUMENT;
    usleep((useconds_t)(steer("SLOW_MS", device->gpu, 0) * 1e3));
    if (after("LOST", device->gpu)) return GPU_IS_LOST;
    while (after("HANGS", device->gpu)) pause();
    return SUCCESS;
}

static int check_sensor(const Device *device) {
    int result = check(device);
    if (result) return result;
    if (device->slice) return NOT_SUPPORTED; /* a slice has no sensor of its own */
    return steer("NO_PERMISSION", device->gpu, 0) ? NO_PERMISSION : SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    int result = check_sensor(device);
    if (result) return result;
    int gpu = device->gpu;
    if (steer("NO_COUNTER", gpu, 0)) return NOT_SUPPORTED;
    if (steer("ENERGY_ERROR", gpu, 0)) return (int)steer("ENERGY_ERROR", gpu, 0);
    double t = now(), joules, reset = asked_reset[gpu] > 0 ? asked_reset[gpu] : started + steer("RESET", gpu, INFINITY);
    double stands = started + steer("STANDS", gpu, INFINITY);
    if (t > stands) t = stands;
    joules = joules_at(gpu, refreshed(gpu, t));
    if (now() >= reset) joules = fmax(0, joules - joules_at(gpu, reset));
    *millijoules = (unsigned long long)(joules * steer("COUNTER_SCALE", gpu, 1) * 1e3);
    return SUCCESS;
}

/* The mean over the last second, as GPUs from Ampere on give it. */
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    int result = check_sensor(device);
    if (result) return result;
    double t = now();
    *milliwatts = (unsigned)((joules_at(device->gpu, t) - joules_at(device->gpu, t - 1)) * 1e3);
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *values) {
    int result = check_sensor(device);
    if (result == GPU_IS_LOST || result == INVALID_ARGUMENT) return result;
    for (int i = 0; i < count; i++) {
        FieldValue *value = &values[i];
        int known = (value->field == 185 || value->field == 186) && !steer("NO_INSTANT", device ? device->gpu : 0, 0);
        value->result = result ? (unsigned)result : known ? SUCCESS : NOT_SUPPORTED;
        value->type = 1; /* unsigned int */
        if (value->result) continue;
        if (value->field == 186) value->value.ui = (unsigned)(watts_at(device->gpu, now()) * 1e3);
        else nvmlDeviceGetPowerUsage(device, &value->value.ui);
    }
    return SUCCESS;
}

/* -- the library and its devices --------------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) {
    const char *error = getenv("NVML_STUB_INIT_ERROR");
    (void)flags;
    if (error && atoi(error)) return atoi(error);
    if (started < 0) started = now();
    for (int gpu = 0; gpu < GPUS; gpu++)
        for (int slice = 0; slice <= SLICES; slice++) devices[gpu][slice] = (Device){gpu, slice};
    return SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int result) { return result == GPU_IS_LOST ? "GPU is lost" : "an error of the stub"; }

static int text(char *to, unsigned size, const char *from) {
    return snprintf(to, size, "%s", from) < (int)size ? SUCCESS : INSUFFICIENT_SIZE;
}

static int number(const Device *device, unsigned *to, unsigned value) {
    int result = check(device);
    if (result == SUCCESS) *to = value;
    return result;
}

static unsigned slices(int gpu) { return (unsigned)steer("MIG", gpu, 0); }

static void uuid(const Device *device, char *to, size_t size) {
    if (device->slice) snprintf(to, size, "MIG-%d%d%s", device->gpu, device->slice, UUIDS[device->gpu] + 6);
    else snprintf(to, size, "%s", UUIDS[device->gpu]);
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) { return text(version, size, "999.42.01"); }
int nvmlDeviceGetCount_v2(unsigned *count) { return *count = GPUS, SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= GPUS) return INVALID_ARGUMENT;
    *device = &devices[index][0];
    return check(*device);
}

int nvmlDeviceGetHandleByUUID(const char *wanted, Device **device) {
    for (int gpu = 0; gpu < GPUS; gpu++)
        for (unsigned slice = 0; slice <= slices(gpu); slice++) {
            char found[96];
            uuid(&devices[gpu][slice], found, sizeof found);
            if (!strcmp(found, wanted)) return *device = &devices[gpu][slice], check(*device);
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *to, unsigned size) {
    int result = check(device);
    char found[96];
    if (result) return result;
    uuid(device, found, sizeof found);
    return text(to, size, found);
}

int nvmlDeviceGetName(Device *device, char *to, unsigned size) {
    int result = check(device);
    return result ? result : text(to, size, NAMES[steer("SAME_NAMES", 0, 0) ? 0 : device->gpu]);
}
int nvmlDeviceGetIndex(Device *device, unsigned *to) { return number(device, to, (unsigned)device->gpu); }

/* -- MIG --------------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    *pending = slices(device->gpu) > 0;
    return number(device, current, *pending);
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { return number(device, count, SLICES); }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **slice) {
    if (index >= slices(device->gpu)) return NOT_FOUND;
    *slice = &devices[device->gpu][1 + index];
    return check(device);
}
int nvmlDeviceIsMigDeviceHandle(Device *device, unsigned *is) { return number(device, is, device->slice > 0); }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *slice, Device **device) {
    *device = &devices[slice->gpu][0];
    return check(slice);
}
int nvmlDeviceGetGpuInstanceId(Device *device, unsigned *id) { return number(device, id, (unsigned)device->slice); }
int nvmlDeviceGetComputeInstanceId(Device *device, unsigned *id) { return number(device, id, 0); }

/* -- state and description --------------------------------------------------------------------------------------- */

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    return sensor ? INVALID_ARGUMENT : number(device, celsius, 40 + 10 * (unsigned)device->gpu);
}
int nvmlDeviceGetClockInfo(Device *device, unsigned type, unsigned *megahertz) {
    return number(device, megahertz, type == 2 ? 2600 : 1400);
}
int nvmlDeviceGetMaxClockInfo(Device *device, unsigned type, unsigned *megahertz) {
    return number(device, megahertz, type == 2 ? 2600 : 1980);
}
int nvmlDeviceGetDefaultApplicationsClock(Device *device, unsigned type, unsigned *megahertz) {
    return number(device, megahertz, type == 2 ? 2600 : 1500);
}
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
    *reasons = after("THROTTLE_FROM", device->gpu) || !getenv("NVML_STUB_THROTTLE_FROM")
                   ? (unsigned long long)steer("THROTTLE", device->gpu, 0)
                   : 0;
    return check(device);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(device, reasons);
}
int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) { return number(device, milliwatts, 700000); }
int nvmlDeviceGetPowerManagementLimit(Device *device, unsigned *milliwatts) {
    return number(device, milliwatts, 700000);
}
int nvmlDeviceGetPowerManagementDefaultLimit(Device *device, unsigned *milliwatts) {
    return number(device, milliwatts, 700000);
}
int nvmlDeviceGetArchitecture(Device *device, unsigned *architecture) { return number(device, architecture, 9); }
int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    int both = (int)steer("CAPABILITY", device->gpu, 90), result = check(device);
    *major = both / 10, *minor = both % 10;
    return result ? result : both ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetPersistenceMode(Device *device, unsigned *mode) { return number(device, mode, 1); }
int nvmlDeviceGetComputeMode(Device *device, unsigned *mode) { return number(device, mode, 0); }
int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    *pending = 1;
    return device->gpu == 1 ? NOT_SUPPORTED : number(device, current, 1);
}
int nvmlDeviceGetUtilizationRates(Device *device, unsigned *gpu_and_memory) {
    gpu_and_memory[1] = 5;
    return number(device, gpu_and_memory, load_at(device->gpu, now()) > 0 ? 100 : 0);
}
int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *total_free_used) {
    total_free_used[0] = 80ull << 30, total_free_used[1] = 70ull << 30, total_free_used[2] = 10ull << 30;
    return check(device);
}

/* -- other processes --------------------------------------------------------------------------------------------- */

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *processes) {
    int result = check(device);
    unsigned room = *count;
    if (result) return result;
    for (*count = 0; !isnan(steer_nth("PROCESSES", device->gpu, (int)*count, NAN)); ++*count) {
        double pid = steer_nth("PROCESSES", device->gpu, (int)*count, NAN);
        Process found = {pid ? (unsigned)pid : (unsigned)getpid(), 1ull << 30, UINT32_MAX, UINT32_MAX};
        if (*count < room && processes) processes[*count] = found;
    }
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned *count, Process *processes) {
    return nvmlDeviceGetComputeRunningProcesses_v3(device, count, processes);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *count, Process *processes) {
    (void)processes, *count = 0;
    return check(device);
}
