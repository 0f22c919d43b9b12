// Items of work, shared among threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <thread>

#include "problem.h"

namespace falloff {

// Whether a call is to end early. The thread that called asks now and then, in a call that takes long.
using Pending = bool (*)();

// Thrown by a call that ended early: results are unfinished, and no thread works on them any more.
struct Interrupted {};

// Whether a call is to end early. The thread that called asks `pending` every 50 ms: a short call never does, and a long one
// loses no time by it. The other threads see the answer.
class Interrupt {
public:
    explicit Interrupt(Pending to_ask) : pending(to_ask) {}
    bool operator()();
    // In a long call the caller, when it has no work left, goes on asking while others work.
    void look_until_alone(const std::atomic<int>& working);

private:
    using Clock = std::chrono::steady_clock;
    const Pending pending;
    const std::thread::id caller = std::this_thread::get_id();
    std::atomic<bool> found{false};
    // Of the caller alone.
    bool looked = false;
    Clock::time_point next = Clock::now() + std::chrono::milliseconds(50);
};

// Does all items of `work` on at most `threads` threads, and on no more than so many multiply-adds are worth: small work stays
// on the calling thread. Starting several threads costs some microseconds, and on a busy machine it waits until the scheduler
// lets all of them run, 8 to 32 ms.
void run_items(
    long items, size_t bytes, const std::function<void(long item, Arena scratch)>& work, int threads, double multiply_adds,
    Interrupt& interrupt
);
template <class P>
void run(const Work<P>& work, const P& p, double multiply_adds, Interrupt& interrupt) {
    run_items(
        work.items(p), work.bytes(p), [&](long item, Arena scratch) { work.run(p, item, scratch); }, p.threads, multiply_adds,
        interrupt
    );
}

}  // namespace falloff
