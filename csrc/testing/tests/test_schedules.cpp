// Correct schedules agree with their references at all sizes, in all orders.
#include "testing/tests/reference.h"

using namespace symkern;
using namespace symkern::schedules;
using testing::for_orders;
using testing::sizes_around;

namespace {

void test_pairs() {
  for (int n : sizes_around({32, 64})) for_orders([&] { check_pairs(n); });
  for_orders([] { check_pairs(40, 0.0f); });  // no pair at all
}

void test_nearest() {
  for (int targets : sizes_around({nearest_tile, 2 * nearest_tile}))
    for_orders([&] { check_nearest(nearest_threads + 1, targets); });
  for (int queries : sizes_around({32, nearest_threads})) for_orders([&] { check_nearest(queries, nearest_tile + 3); });
}

void test_compact() {
  for (int n : sizes_around({32, compact_threads, 2 * compact_threads})) for_orders([&] { check_compact(n); });
}

void test_product() {
  for (int rows : {0, 1, 15, 16, 17})
    for (int columns : {1, 7, 8, 9}) for_orders([&] { check_product(rows, columns, 9); }, 1);
  for (int depth : {0, 1, 7, 8, 9, 40}) for_orders([&] { check_product(17, 9, depth); });
}

void test_sum() {
  for (int n : sizes_around({32, sum_threads, 5 * sum_threads})) for_orders([&] { check_sum(n); });
}

void test_scan_and_sort() {
  for (int n : {0, 1, 1000, 5000}) {
    std::mt19937 generator(6);
    std::vector<std::uint64_t> k(n);
    std::vector<std::int64_t> v(n);
    for (int i = 0; i < n; ++i)
      k[i] = (std::uint64_t{generator()} << 32 | generator()) & 0xff000000000000ffull, v[i] = i;
    testing::Buffer<std::uint64_t> keys(k), sorted_keys(n);
    testing::Buffer<std::int64_t> values(v), sorted_values(n);
    schedules::with_temp([&](void* temp, std::size_t& bytes) {
      gpu::sort_pairs(temp, bytes, keys.data(), sorted_keys.data(), values.data(), sorted_values.data(), n, 56, 64,
                      nullptr);
    });
    std::vector<std::int64_t> order = v;
    std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return k[i] >> 56 < k[j] >> 56; });
    CHECK(sorted_values.to_host() == order);
    std::vector<std::uint64_t> sorted(n);
    for (int i = 0; i < n; ++i) sorted[i] = k[order[i]];
    CHECK(sorted_keys.to_host() == sorted);
    schedules::with_temp([&](void* temp, std::size_t& bytes) {
      gpu::sort_keys(temp, bytes, keys.data(), sorted_keys.data(), n, 0, 64, nullptr);
    });
    std::sort(k.begin(), k.end());
    CHECK(sorted_keys.to_host() == k);

    // 64-bit sums of 32-bit counts.
    std::vector<std::int32_t> counts(n, INT32_MAX);
    std::vector<std::int64_t> expected(n);
    for (int i = 0; i < n; ++i) expected[i] = (i + std::int64_t{1}) * INT32_MAX;
    testing::Buffer<std::int32_t> in(counts);
    testing::Buffer<std::int64_t> out(n);
    schedules::with_temp(
        [&](void* temp, std::size_t& bytes) { gpu::inclusive_sum(temp, bytes, in.data(), out.data(), n, nullptr); });
    CHECK(out.to_host() == expected);
    for (auto& one : expected) one -= INT32_MAX;
    schedules::with_temp(
        [&](void* temp, std::size_t& bytes) { gpu::exclusive_sum(temp, bytes, in.data(), out.data(), n, nullptr); });
    CHECK(out.to_host() == expected);
  }
}

}  // namespace

int main() {
  return testing::run_tests({{"pairs", test_pairs},
                             {"nearest", test_nearest},
                             {"compact", test_compact},
                             {"product", test_product},
                             {"sum", test_sum},
                             {"scan and sort", test_scan_and_sort}});
}
