#include "work.h"

#include <algorithm>

#include "memory.h"
#include "threads.h"

namespace falloff {
namespace {

constexpr double SHARE = 1 << 20;  // multiply-adds that are worth a thread: about 20 microseconds of work

// Counts a thread that works, for as long as it does: until an exception, too.
struct Working {
    explicit Working(std::atomic<int>& counter) : count(counter) { count++; }
    ~Working() { count--; }
    std::atomic<int>& count;
};

}  // namespace

bool Interrupt::operator()() {
    if (found.load(std::memory_order_relaxed)) return true;
    if (!pending || std::this_thread::get_id() != caller || Clock::now() < next) return false;
    next = Clock::now() + std::chrono::milliseconds(50);
    looked = true;
    if (pending()) found.store(true, std::memory_order_relaxed);
    return found.load(std::memory_order_relaxed);
}

void Interrupt::look_until_alone(const std::atomic<int>& working) {
    if (std::this_thread::get_id() != caller) return;
    while (looked && working.load() > 0 && !(*this)()) std::this_thread::sleep_for(std::chrono::microseconds(200));
}

void run_items(
    long items, size_t bytes, const std::function<void(long item, Arena scratch)>& work, int threads, double multiply_adds,
    Interrupt& interrupt
) {
    const double worth = std::max(multiply_adds / SHARE, 1.0);
    // Threads take items in order, so that the first are the first to start; which thread runs which does not matter.
    std::atomic<long> next{0};
    std::atomic<int> working{0};
    auto take_items = [&](int) {
        {
            const Working counted(working);
            const Block<Use::item> scratch(bytes);
            for (long item; !interrupt() && (item = next.fetch_add(1)) < items;)
                work(item, Arena(scratch.data()));
        }
        interrupt.look_until_alone(working);
    };
    on_threads(int(std::min({double(threads), double(items), worth})), take_items);
    if (interrupt()) throw Interrupted();
}

}  // namespace falloff
