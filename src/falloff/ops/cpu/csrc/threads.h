// Runs a job on several threads.
#pragma once

#include <functional>

namespace falloff {

// Calls body(thread) for thread = 0 .. threads - 1, at once, and returns when all are done.
void on_threads(int threads, const std::function<void(int)>& body);

}  // namespace falloff
