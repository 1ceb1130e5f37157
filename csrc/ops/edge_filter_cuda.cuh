// What cfconv_cuda.cuh and painn_message_cuda.cuh share.
#pragma once

#include "core/tile_call.cuh"
#include "ops/edge_filter.h"

namespace symkern::filter_cuda {

// The sums of filters with `width` channels.
template <class S>
std::vector<TileSum<S>> sums_of(FilterSums<S>& sums, int64_t width, int64_t basis) {
  return {{&sums.first_weight, width, basis, true},
          {&sums.first_bias, 1, width, false},
          {&sums.second_weight, width, width, false},
          {&sums.second_bias, 1, width, false},
          {&sums.p, 1, basis, false},
          {&sums.q, 1, basis, false}};
}

}  // namespace symkern::filter_cuda
