// One molecule of stabilizers on the device: a warp whose lanes share loops over atoms, images and operations. What
// decides is the host's (ops/stabilizers.h), and so is the order of the search: operations are found in the same order
// and the same work is counted, so that both schedules refuse the same input unless it is near the bound, where
// rounding in the choice between equivalent reference pairs can tell. Torch-free; runs under the SIMT shim.
#pragma once

#include "ops/stabilizers_atoms.cuh"

namespace symkern::stabilizers_cuda {

constexpr int64_t kMaxTable = int64_t{1} << 27;

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
struct Search : MoleculeAtoms<T, BUG> {
  using Atoms = MoleculeAtoms<T, BUG>;
  using Atoms::begin;
  using Atoms::center;
  using Atoms::close;
  using Atoms::end;
  using Atoms::fail;
  using Atoms::find_close_atoms;
  using Atoms::first;
  using Atoms::in;
  using Atoms::largest;
  using Atoms::last;
  using Atoms::margin;
  using Atoms::match;
  using Atoms::moments;
  using Atoms::n;
  using Atoms::next;
  using Atoms::order;
  using Atoms::place;
  using Atoms::problem;
  using Atoms::radius;
  using Atoms::sort_atoms;
  using Atoms::sorted;
  using Atoms::stamp;
  using Atoms::steps;
  using Atoms::used;
  using Atoms::y;

  double axis[3] = {0, 0, 0};
  bool closed = true, linear = false, inverts = false;
  int rank = 0;
  int64_t group = 0;

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
  bool shortcut = false;
  int num_chosen = 0;  // in the result

  SYMKERN_DEVICE Search(const Input<T>& input, char* scratch, int64_t begin_atom, int64_t atoms)
      : Atoms(input, scratch, begin_atom, atoms) {
    const int64_t operations = max_operations(atoms);
    matrices = carve<double>(next, 9 * operations);
    residuals = carve<double>(next, operations);
    permutations = carve<int32_t>(next, operations * atoms);
    chosen = carve<int32_t>(next, operations);
    by_residual = carve<int32_t>(next, operations);
    members = carve<int32_t>(next, 2 * operations);
    generators = carve<int32_t>(next, operations);
    dets = carve<int8_t>(next, operations);
    is_member = carve<uint8_t>(next, operations);
    seen = carve<uint8_t>(next, operations);
    table = reinterpret_cast<int32_t*>(next);
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
    off = sqrt(gpu::warp_max(off));
    height = gpu::warp_max(height);
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
    most = gpu::warp_max(most);
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
    return sqrt(gpu::warp_max(worst));
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
