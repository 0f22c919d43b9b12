#include "threads.h"

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#if __has_include(<dlfcn.h>)
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace falloff {
namespace {

// Joins its threads, whatever happens. std::jthread, which would, is missing from the libc++ of many a Mac.
struct Joined {
    std::vector<std::thread> threads;
    ~Joined() {
        for (std::thread& thread : threads) thread.join();
    }
};

// The entry of the OpenMP runtime that PyTorch has loaded already (libgomp's; LLVM's has it too). Looked up at run time: a
// second runtime in the process would bring a second set of threads, which fight the first for the cores.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

Parallel openmp() {
#if __has_include(<dlfcn.h>)
    static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    static const pid_t loaded_in = getpid();
    // After a fork the runtime's threads are gone, and it would wait for them.
    return getpid() == loaded_in ? found : nullptr;
#else
    return nullptr;
#endif
}
[[maybe_unused]] const Parallel at_load = openmp();  // so that `loaded_in` is the process that loaded this library

struct Job {
    const std::function<void(int)>& body;
    int threads;
    std::atomic<int> next{0};
    std::atomic_flag failed{};
    std::exception_ptr error{};

    // The runtime may give fewer threads than were asked for: each takes parts until none is left.
    void run() {
        for (int thread; (thread = next.fetch_add(1)) < threads;) try {
                body(thread);
            } catch (...) {  // no exception may leave a thread that another runtime owns
                if (!failed.test_and_set()) error = std::current_exception();
            }
    }
};

}  // namespace

void on_threads(int threads, const std::function<void(int)>& body) {
    Job job{body, threads};
    const Parallel parallel = threads > 1 ? openmp() : nullptr;
    if (parallel) {
        parallel([](void* data) { static_cast<Job*>(data)->run(); }, &job, unsigned(threads), 0);
    } else {
        Joined others;
        for (int i = 1; i < threads; i++) others.threads.emplace_back([&job] { job.run(); });
        job.run();
    }
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace falloff
