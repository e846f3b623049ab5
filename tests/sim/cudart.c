/* The CUDA runtime as build_engine.py and runtime/tensorrt.py call it, and of the driver what bench/gpu.py asks, with the
   host's memory as the GPU's. SIM_CUDA_FULL: no memory left; SIM_CUDA_NONE: no GPU; SIM_CUDA_CHIP: its
   compute capability, as 87. */
#include <stdlib.h>
#include <string.h>

int cudaGetDeviceCount(int *count) { *count = getenv("SIM_CUDA_NONE") ? 0 : 1; return 0; }
static int capability(int *value, int attribute) {
    const char *chip = getenv("SIM_CUDA_CHIP") ? getenv("SIM_CUDA_CHIP") : "87"; /* Orin's compute capability */
    *value = attribute == 75 ? chip[0] - '0' : attribute == 76 ? chip[1] - '0' : -1;
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) { (void)device; return capability(value, attribute); }
int cudaStreamCreate(void **stream) { *stream = malloc(1); return 0; }
int cudaStreamSynchronize(void *stream) { return stream ? 0 : 400; }
int cudaMalloc(void **pointer, size_t size) {
    if (getenv("SIM_CUDA_FULL")) return 2;
    *pointer = malloc(size);
    return *pointer ? 0 : 2;
}
int cudaFree(void *pointer) { free(pointer); return 0; }
/* static: beside torch, a call by its public name would end in NVIDIA's own library */
static int copy(void *to, const void *from, size_t size, int kind) {
    if (kind != 1 && kind != 2) return 21; /* only host to device and back are used */
    memcpy(to, from, size);
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { return copy(to, from, size, kind); }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) {
    if (flags) return 1;
    *pointer = malloc(size);
    return *pointer ? 0 : 2;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    return stream ? copy(to, from, size, kind) : 400;
}
int cuInit(unsigned flags) { return flags || getenv("SIM_CUDA_NONE") ? 100 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    strncpy(name, "simulated", (size_t)size);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) { (void)device; return capability(value, attribute); }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "simulated error"; }
