// One molecule of stabilizers on the device: a warp whose lanes share loops over atoms, images and operations. What
// decides is the host's (ops/stabilizers.h), and so is the order of the search: operations are found in the same order
// and the same work is counted, so that both schedules refuse the same input unless it is near the bound, where
// rounding in the choice between equivalent reference pairs can tell. Torch-free; runs under the SIMT shim.
#pragma once

#include "core/gpu.h"
#include "ops/stabilizers.h"
#include "ops/stabilizers_simd.h"

namespace symkern::stabilizers_cuda {

constexpr int64_t kMaxTable = int64_t{1} << 27;

enum Bug { kNone, kNoSyncBeforeSort, kNoSyncAfterAppend, kNoSyncAfterMatch };

template <class T>
struct Input {
  const T* positions;      // (N, 3)
  const int64_t* numbers;  // (N,)
  const int64_t* ptr;      // (B + 1,)
  int64_t molecules;
  double tolerance;
  int policy;  // SymmetryPolicy
  int64_t samples;
  bool exhaustive;  // as on the host
};

// ---- warps ----------------------------------------------------------------------------------------------------------

SYMKERN_DEVICE double warp_max(double x) {
  for (int step = 16; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(gpu::full_mask, x, step);
    if (other > x) x = other;
  }
  return x;
}
SYMKERN_DEVICE bool warp_any(bool x) { return __any_sync(gpu::full_mask, x) != 0; }
SYMKERN_DEVICE bool warp_all(bool x) { return __all_sync(gpu::full_mask, x) != 0; }
SYMKERN_DEVICE int warp_first(int x) { return __shfl_sync(gpu::full_mask, x, 0); }
SYMKERN_DEVICE int64_t warp_first(int64_t x) {
  return static_cast<int64_t>(__shfl_sync(gpu::full_mask, static_cast<long long>(x), 0));
}

// Of all lanes the one whose (count, -size, place) comes first; count < 0 stands for nothing.
SYMKERN_DEVICE int warp_choose(int count, double size, int place) {
  for (int step = 16; step > 0; step /= 2) {
    const int other = __shfl_xor_sync(gpu::full_mask, count, step);
    const double other_size = __shfl_xor_sync(gpu::full_mask, size, step);
    const int other_place = __shfl_xor_sync(gpu::full_mask, place, step);
    const bool better =
        other >= 0 && (count < 0 || other < count ||
                       (other == count && (other_size > size || (other_size == size && other_place < place))));
    if (better) count = other, size = other_size, place = other_place;
  }
  return place;
}

// ---- one molecule ---------------------------------------------------------------------------------------------------

// Bytes of scratch for molecules of up to `atoms` atoms: what Search carves, rounded up.
inline size_t scratch_bytes(int64_t atoms) {
  const int64_t operations = max_operations(atoms);
  const int64_t table = 2 * atoms * atoms < kMaxTable ? 2 * atoms * atoms : kMaxTable;
  const int64_t bytes = 112 * atoms + 4 * table + operations * (4 * atoms + 9 * 8 + 8 + 7 * 4 + 3) + 24 * 16;
  return static_cast<size_t>((bytes + 255) / 256 * 256);
}

template <class T, int BUG>
struct Search {
  const Input<T>& in;
  char* next;  // scratch
  int64_t first;
  int n;

  // by atom
  double *y, *r;
  int32_t *place, *match, *last;
  // by place in the order of species and radius
  double* sorted;
  double* radius;
  int32_t *order, *begin, *end, *used;
  int stamp = 0;

  double centroid[3], axis[3] = {0, 0, 0}, largest = 0, moments[6] = {0, 0, 0, 0, 0, 0}, margin;
  bool close = false, ambiguous = false, closed = true, linear = false, inverts = false;
  int rank = 0;
  int64_t group = 0;
  SymmetryProblem problem = SymmetryProblem::none;
  int64_t problem_value = 0;

  OperationKeys keys{};
  int a = 0, b = 0;  // places
  double frame[3][3], error = 0, fitted[9], residual = 0;
  int32_t* table;
  double *matrices, *residuals;
  int32_t *permutations, *chosen, *by_residual;
  int8_t* dets;
  uint8_t *is_member, *seen;
  int32_t *members, *generators;
  int count = 0;  // operations found
  int num_generators = 0;
  int64_t steps = 0;  // work done, as kMaxSteps counts it
  bool shortcut = false;
  int num_chosen = 0;  // in the result

  SYMKERN_DEVICE Search(const Input<T>& input, char* scratch, int64_t begin_atom, int64_t atoms)
      : in(input), next(scratch), first(begin_atom), n(static_cast<int>(atoms)), margin(input.tolerance) {
    y = carve<double>(3 * atoms);
    sorted = carve<double>(3 * atoms);
    r = carve<double>(atoms);
    radius = carve<double>(atoms);
    order = carve<int32_t>(atoms);
    place = carve<int32_t>(atoms);
    begin = carve<int32_t>(atoms);
    end = carve<int32_t>(atoms);
    match = carve<int32_t>(atoms);
    last = carve<int32_t>(atoms);
    used = carve<int32_t>(atoms);
    const int64_t operations = max_operations(atoms);
    matrices = carve<double>(9 * operations);
    residuals = carve<double>(operations);
    permutations = carve<int32_t>(operations * atoms);
    chosen = carve<int32_t>(operations);
    by_residual = carve<int32_t>(operations);
    members = carve<int32_t>(2 * operations);
    generators = carve<int32_t>(operations);
    dets = carve<int8_t>(operations);
    is_member = carve<uint8_t>(operations);
    seen = carve<uint8_t>(operations);
    table = reinterpret_cast<int32_t*>(next);
  }

  template <class Item>
  SYMKERN_DEVICE Item* carve(int64_t items) {
    Item* out = reinterpret_cast<Item*>(next);
    next += (items * static_cast<int64_t>(sizeof(Item)) + 15) / 16 * 16;
    return out;
  }

  SYMKERN_DEVICE bool fail(SymmetryProblem what, int64_t value) {
    problem = what;
    problem_value = value;
    return false;
  }

  SYMKERN_DEVICE void run() {
    if (!center()) return;
    sort_atoms();
    if (!within_budget()) return;
    find_close_atoms();
    if (rank_below_two()) return;
    choose_references();
    if (find_operations()) finish();
  }

  SYMKERN_DEVICE bool center() {
    const T* x = in.positions + 3 * first;
    const int64_t* z = in.numbers + first;
    int bad_number = n, bad_position = n;
    double origin[3] = {0, 0, 0}, sum[3] = {0, 0, 0};
    for (int c = 0; c < 3 && n > 0; ++c) origin[c] = static_cast<double>(x[c]);
    for (int i = gpu::lane(); i < n; i += 32) {
      if (z[i] < 1 && i < bad_number) bad_number = i;
      double all = 0;
      for (int c = 0; c < 3; ++c) {
        const double value = static_cast<double>(x[3 * i + c]);
        all += value;
        y[3 * i + c] = value - origin[c];
        sum[c] += value - origin[c];
      }
      if (!(all - all == 0) && i < bad_position) bad_position = i;
    }
    bad_number = gpu::reduce_min(gpu::full_mask, bad_number);
    bad_position = gpu::reduce_min(gpu::full_mask, bad_position);
    for (int c = 0; c < 3; ++c) {
      sum[c] = n > 0 ? gpu::warp_sum(sum[c]) / n : 0;
      centroid[c] = origin[c] + sum[c];
    }
    if (bad_number < n) return fail(SymmetryProblem::number, bad_number);
    if (bad_position < n) return fail(SymmetryProblem::not_finite, bad_position);
    bool far = false;
    for (int i = gpu::lane(); i < n; i += 32) {
      double* v = y + 3 * i;
      for (int c = 0; c < 3; ++c) v[c] -= sum[c];
      r[i] = sqrt(dot3(v, v));
      far |= !in_reach(r[i]);
      if (r[i] > largest) largest = r[i];
      const double products[6] = {v[0] * v[0], v[1] * v[1], v[2] * v[2], v[0] * v[1], v[0] * v[2], v[1] * v[2]};
      for (int c = 0; c < 6; ++c) moments[c] += products[c];
    }
    largest = warp_max(largest);
    for (int c = 0; c < 6; ++c) moments[c] = gpu::warp_sum(moments[c]);
    if (BUG != kNoSyncBeforeSort) __syncwarp();
    return !warp_any(far) || fail(SymmetryProblem::too_far, 0);
  }

  SYMKERN_DEVICE int64_t species(int k) const { return in.numbers[first + order[k]]; }

  // By counting how many come before: molecules are small.
  SYMKERN_DEVICE void sort_atoms() {
    const int64_t* z = in.numbers + first;
    for (int i = gpu::lane(); i < n; i += 32) {
      int before = 0;
      for (int j = 0; j < n; ++j) {
        before += z[j] != z[i] ? z[j] < z[i] : r[j] != r[i] ? r[j] < r[i] : j < i;
      }
      place[i] = before;
      order[before] = i;
      used[i] = 0;
      radius[before] = r[i];
      for (int c = 0; c < 3; ++c) sorted[3 * before + c] = y[3 * i + c];
    }
    __syncwarp();
    long long alike = 0;
    for (int k = gpu::lane(); k < n; k += 32) {
      const int64_t kind = species(k);
      int low = k, high = k + 1;
      while (low > 0 && species(low - 1) == kind && similar_radii(radius[low - 1], radius[k], in.tolerance)) --low;
      while (high < n && species(high) == kind && similar_radii(radius[high], radius[k], in.tolerance)) ++high;
      begin[k] = low;
      end[k] = high;
      alike += high - low;
    }
    steps += preparation_steps(gpu::warp_sum(alike));
    __syncwarp();
  }

  SYMKERN_DEVICE void find_close_atoms() {
    const double limit = 2 * in.tolerance, wide = 4 * in.tolerance;
    bool any_close = false, any_ambiguous = false;
    for (int k = gpu::lane(); k < n; k += 32) {
      const int64_t kind = species(k);
      for (int j = k - 1; j >= 0 && species(j) == kind && radius[k] - radius[j] <= wide; --j) {
        const double d = distance_sq3(sorted + 3 * j, sorted + 3 * k);
        any_close |= d <= wide * wide;
        any_ambiguous |= d <= limit * limit;
      }
    }
    close = warp_any(any_close);
    ambiguous = warp_any(any_ambiguous);
  }

  SYMKERN_DEVICE bool rank_below_two() {
    decide(largest, in.tolerance, margin);
    if (largest <= in.tolerance) {
      group = group_code(Family::kh);
      identity_only();
      return true;
    }
    double normal[3] = {0, 0, 0}, along[3] = {0, 0, 0};
    principal_axes(moments, along, normal);
    double off = 0, height = 0;
    for (int i = gpu::lane(); i < n; i += 32) {
      const double d = off_axis_sq(y + 3 * i, along), h = fabs(dot3(y + 3 * i, normal));
      if (d > off) off = d;
      if (h > height) height = h;
    }
    off = sqrt(warp_max(off));
    height = warp_max(height);
    decide(off, in.tolerance, margin);
    if (off <= in.tolerance) {
      for (int c = 0; c < 3; ++c) axis[c] = along[c];
      find_inversion();
      return true;
    }
    rank = height <= in.tolerance ? 2 : 3;
    return false;
  }

  // A molecule whose operations `fill` knows without this search: the identity, or those of linear molecules.
  SYMKERN_DEVICE void identity_only() {
    count = num_chosen = 1;
    for (int i = gpu::lane(); i < n; i += 32) match[i] = i;
    __syncwarp();
  }

  SYMKERN_DEVICE void find_inversion() {
    rank = 1;
    linear = true;
    const double inversion[9] = {-1, 0, 0, 0, -1, 0, 0, 0, -1};
    inverts = nearest(inversion, 1e300, inverts) && inverts;
    if (inverts) {
      double worst = residual_of(inversion);
      for (int det = -1; det <= 1 && worst > in.tolerance; det += 2) {  // see the host
        fit(det);
        if (residual < worst && turns_around(fitted, axis)) worst = residual;
      }
      residual = worst;
      decide(worst, in.tolerance, margin);
      inverts = worst <= in.tolerance;
    }
    __syncwarp();
    if (!inverts) {
      for (int i = gpu::lane(); i < n; i += 32) match[i] = i;
      __syncwarp();
    }
    group = group_code(inverts ? Family::dinfh : Family::cinfv);
  }

  SYMKERN_DEVICE int64_t linear_operations() const {
    return (inverts ? 2 : 1) * (in.samples > 0 ? 2 * in.samples : int64_t{1});
  }

  SYMKERN_DEVICE void choose_references() {
    int fewest = -1, chosen_place = 0;
    double size = 0;
    for (int k = gpu::lane(); k < n; k += 32) {
      if (!(radius[k] > 0.3 * largest)) continue;
      const int images = end[k] - begin[k];
      if (fewest < 0 || images < fewest || (images == fewest && radius[k] > size)) {
        fewest = images, size = radius[k], chosen_place = k;
      }
    }
    a = warp_choose(fewest, size, chosen_place);
    double direction[3] = {sorted[3 * a], sorted[3 * a + 1], sorted[3 * a + 2]};
    normalize3(direction);
    double most = 0;
    for (int k = gpu::lane(); k < n; k += 32) {
      const double h = off_axis_sq(sorted + 3 * k, direction);
      if (h > most) most = h;
    }
    most = warp_max(most);
    bool single = false;
    for (int k = gpu::lane(); k < n; k += 32) {
      single |= off_axis_sq(sorted + 3 * k, direction) > 0.09 * most && k != a && end[k] - begin[k] == 1;
    }
    single = warp_any(single);
    fewest = -1, size = 0, chosen_place = 0;
    for (int k = gpu::lane(); k < n; k += 32) {
      const double h = off_axis_sq(sorted + 3 * k, direction);
      int images = end[k] - begin[k];
      if (!(h > 0.09 * most) || k == a || (single && images > 1)) continue;
      if (images > 1) {
        const double d = sqrt(distance_sq3(sorted + 3 * a, sorted + 3 * k));
        images = 0;
        for (int j = begin[k]; j < end[k]; ++j) {
          images += similar_distances(sqrt(distance_sq3(sorted + 3 * a, sorted + 3 * j)), d, in.tolerance);
        }
      }
      if (fewest < 0 || images < fewest || (images == fewest && h > size)) fewest = images, size = h, chosen_place = k;
    }
    b = warp_choose(fewest, size, chosen_place);
    keys = {place, order[a], order[b], begin[a], end[a], begin[b], end[b]};
  }

  SYMKERN_DEVICE bool clear_table() {
    const int64_t size = keys.size();
    if (size > kMaxTable) return fail(SymmetryProblem::images, size / 2);
    for (int64_t k = gpu::lane(); k < size; k += 32) table[k] = 0;
    __syncwarp();
    return true;
  }

  SYMKERN_DEVICE bool find_operations() {
    if (!clear_table()) return false;
    for (int i = gpu::lane(); i < n; i += 32) match[i] = i;
    for (int c = 0; c < 9; ++c) fitted[c] = c % 4 == 0;
    residual = 0;
    __syncwarp();
    append(keys(keys.a, keys.b, 1), 1);
    const double *ya = sorted + 3 * a, *yb = sorted + 3 * b;
    const double distance = sqrt(distance_sq3(ya, yb));
    bisector_frame(ya, yb, frame);
    error = guess_error(ya, yb, in.tolerance);
    shortcut = !in.exhaustive && !close;
    if (rank == 2) {  // the plane, whose permutation is the identity's
      fit(-1);
      if (!judge(-1)) return false;
    }
    const auto similar = [&](int i, int base) {  // lanes whose place and i may be images
      const int mine = base + gpu::lane();
      return __ballot_sync(gpu::full_mask, mine < end[b] && mine != i &&
                                               similar_distances(sqrt(distance_sq3(sorted + 3 * i, sorted + 3 * mine)),
                                                                 distance, in.tolerance));
    };
    int64_t images = 0;
    for (int i = begin[a]; i < end[a]; ++i) {
      for (int base = begin[b]; base < end[b]; base += 32) images += __popc(similar(i, base));
      if (images > kMaxImages) return fail(SymmetryProblem::images, images);
    }
    for (int i = begin[a]; i < end[a]; ++i) {
      for (int base = begin[b]; base < end[b]; base += 32) {
        unsigned similar_lanes = similar(i, base);
        for (; similar_lanes != 0; similar_lanes &= similar_lanes - 1) {
          if (!try_images(i, base + __ffs(static_cast<int>(similar_lanes)) - 1)) return false;
        }
      }
    }
    return true;
  }

  // Both operations that may send the reference pair to places i and j.
  SYMKERN_DEVICE bool try_images(int i, int j) {
    double to[3][3];
    bisector_frame(sorted + 3 * i, sorted + 3 * j, to);
    for (int det = 1; det >= -1; det -= 2) {
      const int64_t key = keys(order[i], order[j], det);
      const bool known = table[key] != 0;
      __syncwarp();
      if (known) continue;
      if (gpu::lane() == 0) table[key] = -1;
      double guess[9];
      frame_rotation(frame, to, det, guess);
      steps += kCandidateSteps;
      if (match_from(guess, det) && !judge(det)) return false;
      if (!within_budget()) return false;
      __syncwarp();
    }
    return true;
  }

  SYMKERN_DEVICE bool within_budget() { return steps <= kMaxSteps || fail(SymmetryProblem::steps, n); }

  // Nearest partners under m, in match; false if an atom has none within `error` per radius. A permutation if
  // `bijective`. Where atoms are close to each other one after the other, in the order given, gets the nearest that is
  // free.
  SYMKERN_DEVICE bool nearest(const double* m, double reach_error, bool& bijective) {
    __syncwarp();
    ++stamp;
    bijective = true;
    if (close) return nearest_free(m, reach_error);
    for (int base = 0; base < n; base += 32) {
      const int k = base + gpu::lane();
      bool inside = true, fresh = true;
      if (k < n) {
        double z[3], d;
        multiply3(m, sorted + 3 * k, z);
        const int32_t j = nearest_atom(z, sorted, begin[k], end[k], d);
        const double reach = guess_reach(reach_error, radius[k], in.tolerance);
        inside = d <= reach * reach;
        if (inside) {
          fresh = atomicExch(&used[j], stamp) != stamp;
          match[order[k]] = order[j];
        }
      }
      // work as the host counts it: up to the first atom without a partner
      const unsigned failed = __ballot_sync(gpu::full_mask, !inside);
      const bool counts = k < n && (failed == 0 || gpu::lane() < __ffs(static_cast<int>(failed)));
      steps += gpu::reduce_add(gpu::full_mask, counts ? end[k] - begin[k] : 0);
      if (failed != 0) return false;
      if (!warp_all(fresh)) bijective = false;
    }
    if (BUG != kNoSyncAfterMatch) __syncwarp();
    return true;
  }

  SYMKERN_DEVICE bool nearest_free(const double* m, double reach_error) {
    for (int i = 0; i < n; ++i) {
      const int k = place[i];
      double z[3], least;
      multiply3(m, sorted + 3 * k, z);
      int j = nearest_free_atom(z, sorted, begin[k] + gpu::lane(), end[k], 32, used, stamp, least);
      for (int step = 16; step > 0; step /= 2) {
        const double other_least = __shfl_xor_sync(gpu::full_mask, least, step);
        const int other = __shfl_xor_sync(gpu::full_mask, j, step);
        if (other >= 0 && (j < 0 || other_least < least || (other_least == least && other < j))) {
          least = other_least, j = other;
        }
      }
      steps += end[k] - begin[k];
      const double reach = guess_reach(reach_error, radius[k], in.tolerance);
      if (j < 0 || least > reach * reach) return false;
      __syncwarp();
      if (gpu::lane() == 0) used[j] = stamp, match[i] = order[j];
      __syncwarp();
    }
    return true;
  }

  // Largest distance of an image under m from its partner in match.
  SYMKERN_DEVICE double residual_of(const double* m) const {
    double worst = 0;
    for (int i = gpu::lane(); i < n; i += 32) {
      const double d = residual_sq(m, y + 3 * i, y + 3 * match[i]);
      if (d > worst) worst = d;
    }
    return sqrt(warp_max(worst));
  }

  // The Kabsch matrix of match, in fitted, and its residual.
  SYMKERN_DEVICE void fit(int det) {
    steps += fit_steps(n);
    double h[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int i = gpu::lane(); i < n; i += 32) add_outer(y + 3 * match[i], y + 3 * i, h);
    for (double& x : h) x = gpu::warp_sum(x);
    kabsch3(h, det, fitted);
    residual = residual_of(fitted);
  }

  // From the first guess to a permutation that is its own nearest match.
  SYMKERN_DEVICE bool match_from(const double* guess, int det) {
    bool bijective;
    if (!nearest(guess, error, bijective)) return false;
    for (int round = 0;; ++round) {
      fit(det);
      if (bijective && !close && residual <= 2 * in.tolerance) return true;
      for (int i = gpu::lane(); i < n; i += 32) last[i] = match[i];
      if (round == 4 || steps > kMaxSteps || !nearest(fitted, 1e300, bijective)) return false;
      bool same = true;
      for (int i = gpu::lane(); i < n; i += 32) same &= last[i] == match[i];
      if (warp_all(same)) return bijective;
    }
  }

  // Accepts or rejects match, with all products of what is accepted; false after a problem.
  SYMKERN_DEVICE bool judge(int det) {
    const int before = count;
    return judge_alone(det) && (count == before || !shortcut || multiply());
  }

  SYMKERN_DEVICE bool judge_alone(int det) {
    decide(residual, in.tolerance, margin);
    const int64_t key = keys(match[keys.a], match[keys.b], det);
    if (residual > in.tolerance || key < 0) return true;
    __syncwarp();
    const bool known = table[key] > 0;
    __syncwarp();
    return known || append(key, det);
  }

  // Judges all products with the newest operation, and those of what they give.
  SYMKERN_DEVICE bool multiply() {
    const int found = count - 1;
    if (gpu::lane() == 0) generators[num_generators] = found;
    ++num_generators;
    __syncwarp();
    for (int k = 0; k < count; ++k) {
      for (int m = k < found ? num_generators - 1 : 0; m < num_generators; ++m) {
        const OperationSet set = operations();
        const int g = generators[m];
        const int64_t key = set.product_key(k, g);
        ++steps;
        if (key < 0 || table[key] > 0) continue;
        if (!within_budget()) return false;
        __syncwarp();
        const int32_t *p = set.permutation(k), *q = set.permutation(g);
        for (int i = gpu::lane(); i < n; i += 32) match[i] = p[q[i]];
        const int det = set.dets[k] * set.dets[g];
        __syncwarp();
        fit(det);
        if (residual <= in.tolerance && !judge_alone(det)) return false;  // else judged again if it is matched
      }
    }
    return true;
  }

  SYMKERN_DEVICE bool append(int64_t key, int det) {
    if (count >= max_operations(n)) return fail(SymmetryProblem::operations, count);
    const int64_t at = count;
    for (int i = gpu::lane(); i < n; i += 32) permutations[at * n + i] = match[i];
    if (gpu::lane() == 0) {
      for (int c = 0; c < 9; ++c) matrices[9 * at + c] = fitted[c];
      residuals[at] = residual;
      dets[at] = static_cast<int8_t>(det);
      if (key >= 0) table[key] = count + 1;
    }
    ++count;
    if (BUG != kNoSyncAfterAppend) __syncwarp();
    return true;
  }

  // ---- the group: integers; one lane walks it ----

  SYMKERN_DEVICE OperationSet operations() const { return {keys, table, permutations, dets, n}; }

  SYMKERN_DEVICE void sort_operations() {
    const OperationSet set = operations();
    for (int g = gpu::lane(); g < count; g += 32) {
      int before = 0;
      for (int h = 0; h < count; ++h) before += h != g && set.before(h, g);
      chosen[before] = g;
      is_member[g] = 0;
    }
    __syncwarp();
  }

  SYMKERN_DEVICE void finish() {
    num_chosen = count;
    if (count == 1) {
      group = group_code(Family::c1);
      for (int i = gpu::lane(); i < n; i += 32) match[i] = i;
      if (gpu::lane() == 0) chosen[0] = 0;
      __syncwarp();
      return;
    }
    sort_operations();
    Subgroup part{members, is_member, 0, 0, {}};
    int forms = 0;
    if (gpu::lane() == 0) forms = forms_group(operations(), part, chosen, count) ? 1 : 0;
    closed = warp_first(forms) != 0;
    __syncwarp();
    const auto policy = static_cast<SymmetryPolicy>(in.policy);
    if (!closed && policy == SymmetryPolicy::generate) {
      if (!generate()) return;
      sort_operations();
      num_chosen = count;
      if (gpu::lane() == 0) {
        for (int k = 0; k < count; ++k) members[k] = k;
        part.count = count;
      }
    } else if (!closed) {
      for (int k = gpu::lane(); k < count; k += 32) {
        const double mine = residual_rank(residuals[chosen[k]], in.tolerance);
        int before = 0;
        for (int m = 0; m < count; ++m) {
          const double other = residual_rank(residuals[chosen[m]], in.tolerance);
          before += other < mine || (other == mine && m < k);
        }
        by_residual[before] = chosen[k];
        is_member[k] = 0;
      }
      __syncwarp();
      if (gpu::lane() == 0) {
        start_subgroup(part);
        grow_group(operations(), part, by_residual, count);
      }
    }
    int kept = count;
    if (gpu::lane() == 0) {
      group = group_of_counts(count_group(operations(), members, part.count, matrices, seen));
      if (!closed && policy == SymmetryPolicy::closed) {
        kept = 0;
        for (int k = 0; k < count; ++k) {
          if (is_member[chosen[k]]) chosen[kept++] = chosen[k];
        }
      }
    }
    num_chosen = warp_first(kept);
    group = warp_first(group);
    __syncwarp();
    const OperationSet set = operations();
    for (int i = gpu::lane(); i < n; i += 32) {
      int32_t least = i;  // smallest image
      for (int k = 0; k < num_chosen; ++k) {
        const int32_t image = set.permutation(chosen[k])[i];
        if (image < least) least = image;
      }
      match[i] = least;
    }
    __syncwarp();
  }

  // All products, whatever their residuals.
  SYMKERN_DEVICE bool generate() {
    const int given = count;
    for (int k = 0; k < count; ++k) {
      for (int g = 1; g < given; ++g) {
        const int32_t *p = permutations + static_cast<int64_t>(k) * n, *q = permutations + static_cast<int64_t>(g) * n;
        for (int i = gpu::lane(); i < n; i += 32) match[i] = p[q[i]];
        __syncwarp();
        const int det = dets[k] * dets[g];
        bool known = false;
        for (int m = 0; m < count && !known; ++m) {
          bool same = dets[m] == det;
          ++steps;
          for (int i = gpu::lane(); i < n; i += 32) same &= permutations[static_cast<int64_t>(m) * n + i] == match[i];
          known = warp_all(same);
        }
        if (!within_budget()) return false;
        if (known) continue;
        if (count >= max_operations(n)) return fail(SymmetryProblem::generated, count);
        fit(det);
        append(-1, det);
      }
    }
    int low[2] = {place[keys.a], place[keys.b]}, high[2] = {low[0], low[1]};
    for (int k = 0; k < count; ++k) {
      for (int c = 0; c < 2; ++c) {
        const int at = place[permutations[static_cast<int64_t>(k) * n + (c == 0 ? keys.a : keys.b)]];
        if (at < low[c]) low[c] = at;
        if (at > high[c]) high[c] = at;
      }
    }
    keys.a_begin = low[0], keys.a_end = high[0] + 1, keys.b_begin = low[1], keys.b_end = high[1] + 1;
    if (!clear_table()) return false;
    for (int k = gpu::lane(); k < count; k += 32) {
      const int32_t* p = permutations + static_cast<int64_t>(k) * n;
      table[keys(p[keys.a], p[keys.b], dets[k])] = k + 1;
    }
    __syncwarp();
    return true;
  }
};

}  // namespace symkern::stabilizers_cuda
