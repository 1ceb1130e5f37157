// The symmetry of one molecule on the host. Compiled once per instruction-set level with SYMKERN_ISA_LEVEL = baseline |
// avx2 | avx512; everything but the table at the end has internal linkage (scripts/audit.py looks).
//
// Atoms are sorted by species and radius, so that those an operation may send an atom to are neighbors in that order.
// Only candidates that no product of known operations explains are matched; what is found as a product is judged by its
// own Kabsch matrix and residual, as if it had been matched.
#include "ops/stabilizers_simd.h"

#include "ops/stabilizers_atoms.h"

#define SYMKERN_CONCAT_(a, b) a##b
#define SYMKERN_CONCAT(a, b) SYMKERN_CONCAT_(a, b)

namespace symkern {
namespace {

class Search : MoleculeAtoms {
 public:
  using MoleculeAtoms::MoleculeAtoms;

  void run() {
    out_ = MoleculeSymmetry{};
    out_.margin = tol_;
    out_.closed = true;
    reserve_atoms();
    if (!center()) return;
    sort_atoms();
    if (steps_ > kMaxSteps) {
      fail(SymmetryProblem::steps, n_);
      return;
    }
    find_close_atoms();
    if (!rank_below_two()) {
      choose_references();
      search();
      if (out_.problem == SymmetryProblem::none) finish();
    }
    out_.matrices = matrices_;
    out_.residuals = residuals_;
    out_.permutations = permutations_;
  }

 private:
  bool rank_below_two() {
    decide(largest_, tol_, out_.margin);
    const bool point = largest_ <= tol_;
    double normal[3] = {0, 0, 0}, axis[3] = {0, 0, 0};
    bool have_axes = false;
    if (!point && !certainly_not_linear(moments_, n_, tol_)) {
      principal_axes(moments_, axis, normal);
      have_axes = true;
      double off = 0;
      for (int64_t i = 0; i < n_; ++i) {
        const double d = off_axis_sq(y_ + 3 * i, axis);
        if (d > off) off = d;
      }
      off = sqrt(off);
      decide(off, tol_, out_.margin);
      if (off <= tol_) {
        for (int k = 0; k < 3; ++k) out_.axis[k] = axis[k];
        linear();
        return true;
      }
    }
    if (!point) {
      out_.rank = 3;
      if (!certainly_not_planar(moments_, n_, tol_)) {
        if (!have_axes) principal_axes(moments_, axis, normal);
        double height = 0;
        for (int64_t i = 0; i < n_; ++i) {
          const double h = fabs(dot3(y_ + 3 * i, normal));
          if (h > height) height = h;
        }
        if (height <= tol_) out_.rank = 2;
      }
      return false;
    }
    reserve_operations(1);
    append(identity_, 1, nullptr, 0);
    choose_all();
    out_.group = group_code(Family::kh);
    for (int64_t i = 0; i < n_; ++i) orbits_[i] = in_.first + i;
    return true;
  }

  // E, and the inversion if it is one; or their products with rotations and mirror planes.
  void linear() {
    out_.rank = 1;
    const double inversion[9] = {-1, 0, 0, 0, -1, 0, 0, 0, -1};
    bool inverts;
    inverts = nearest(inversion, 1e300, match_, inverts) && inverts;
    double worst = 0;
    if (inverts) {
      worst = residual(inversion, match_);
      // atoms off the axis, by up to the tolerance, are farther from their images than another operation of the coset
      // need leave them
      for (int det = -1; det <= 1 && worst > tol_; det += 2) {
        const double other = fit(match_, det, fit_);
        if (other < worst && turns_around(fit_, out_.axis)) worst = other;
      }
      decide(worst, tol_, out_.margin);
      inverts = worst <= tol_;
    }
    const int64_t each = in_.samples > 0 ? 2 * in_.samples : 1;
    reserve_operations(2 * each);
    for (int inverted = 0; inverted < (inverts ? 2 : 1); ++inverted) {
      for (int64_t k = 0; k < each; ++k) {
        const int32_t* p = inverted ? match_ : identity_;
        double r[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
        if (in_.samples > 0 && k > 0) {
          linear_operation(out_.axis, k, in_.samples, inverted != 0, r);
        } else {
          r[0] = r[4] = r[8] = inverted ? -1 : 1;
        }
        append(p, 1, r, inverted && in_.samples == 0 ? worst : residual(r, p));
      }
    }
    choose_all();
    out_.order = 0;
    out_.group = group_code(inverts ? Family::dinfh : Family::cinfv);
    for (int64_t i = 0; i < n_; ++i) {
      orbits_[i] = in_.first + (inverts && match_[i] < i ? match_[i] : static_cast<int32_t>(i));
    }
  }

  // a: fewest images among the atoms away from the center. b: off the line of a, with the fewest images at the distance
  // of a and b around a itself, which for a symmetric molecule stands for all images of a. Atoms that can only stay
  // where they are come first.
  void choose_references() {
    int32_t a = -1;
    for (int32_t k = 0; k < n_; ++k) {
      if (!(radius_[k] > 0.3 * largest_)) continue;
      const int32_t images = end_[k] - begin_[k];
      if (a < 0 || images < end_[a] - begin_[a] || (images == end_[a] - begin_[a] && radius_[k] > radius_[a])) a = k;
    }
    double direction[3] = {sorted_[3 * a], sorted_[3 * a + 1], sorted_[3 * a + 2]};
    normalize3(direction);
    double most = 0;
    for (int32_t k = 0; k < n_; ++k) {
      const double h = off_axis_sq(sorted_ + 3 * k, direction);
      if (h > most) most = h;
    }
    int32_t b = -1, fewest = 0;
    double height = 0;
    bool single = false;
    for (int32_t k = 0; k < n_; ++k) {
      const double h = off_axis_sq(sorted_ + 3 * k, direction);
      if (!(h > 0.09 * most) || k == a) continue;
      int32_t images = end_[k] - begin_[k];
      if (images > 1 && single) continue;
      if (images == 1 && !single) single = true, b = -1;
      if (images > 1) {
        const double d = sqrt(distance_sq3(sorted_ + 3 * a, sorted_ + 3 * k));
        images = 0;
        for (int32_t j = begin_[k]; j < end_[k]; ++j) {
          images += similar_distances(sqrt(distance_sq3(sorted_ + 3 * a, sorted_ + 3 * j)), d, tol_);
        }
      }
      if (b < 0 || images < fewest || (images == fewest && h > height)) b = k, fewest = images, height = h;
    }
    a_ = a;
    b_ = b;
    keys_ = {place_, order_[a], order_[b], begin_[a], end_[a], begin_[b], end_[b]};
  }

  void search() {
    const int64_t size = keys_.size();
    if (size > int64_t{1} << 27) {
      fail(SymmetryProblem::images, size / 2);
      return;
    }
    table_ = static_cast<int32_t*>(scratch_.resize(scratch_.context, kTable, static_cast<size_t>(size) * 4));
    for (int64_t k = 0; k < size; ++k) table_[k] = 0;
    reserve_operations(16);
    num_generators_ = 0;
    append(identity_, 1, nullptr, 0);
    table_[keys_(keys_.a, keys_.b, 1)] = 1;
    const double *ya = sorted_ + 3 * a_, *yb = sorted_ + 3 * b_;
    const double distance = sqrt(distance_sq3(ya, yb));
    bisector_frame(ya, yb, frame_);
    error_ = guess_error(ya, yb, tol_);
    const bool shortcut = !in_.exhaustive && !close_;
    if (out_.rank == 2) {  // the plane, whose permutation is the identity's
      for (int64_t i = 0; i < n_; ++i) match_[i] = identity_[i];
      residual_ = fit(match_, -1, fit_);
      if (!accept(-1, shortcut)) return;
    }
    const auto image = [&](int32_t i, int32_t j) {
      return i != j && similar_distances(sqrt(distance_sq3(sorted_ + 3 * i, sorted_ + 3 * j)), distance, tol_);
    };
    int64_t images = 0;  // counted first: where there are too many, they are not worth a try
    for (int32_t i = begin_[a_]; i < end_[a_]; ++i) {
      for (int32_t j = begin_[b_]; j < end_[b_]; ++j) images += image(i, j);
      if (images > kMaxImages) {
        fail(SymmetryProblem::images, images);
        return;
      }
    }
    for (int32_t i = begin_[a_]; i < end_[a_]; ++i) {
      for (int32_t j = begin_[b_]; j < end_[b_]; ++j) {
        if (!image(i, j)) continue;
        const double *yi = sorted_ + 3 * i, *yj = sorted_ + 3 * j;
        bool framed = false;
        double to[3][3];
        for (int det = 1; det >= -1; det -= 2) {
          if (table_[keys_(order_[i], order_[j], det)] != 0) continue;
          if (!framed) bisector_frame(yi, yj, to);
          framed = true;
          double guess[9];
          frame_rotation(frame_, to, det, guess);
          table_[keys_(order_[i], order_[j], det)] = -1;
          steps_ += kCandidateSteps;
          if (match(guess, det) && !accept(det, shortcut)) return;
          if (!within_budget()) return;
        }
      }
    }
  }

  bool within_budget() { return steps_ <= kMaxSteps || fail(SymmetryProblem::steps, n_); }

  // Nearest partners under r; false if one has none within `error` per radius. A permutation if `bijective`. Where
  // atoms are close to each other one after the other, in the order given, gets the nearest that is free.
  bool nearest(const double* r, double error, int32_t* p, bool& bijective) {
    ++stamp_;
    bijective = true;
    for (int32_t i = 0; i < n_; ++i) {
      const int32_t k = close_ ? place_[i] : i;
      double z[3], d;
      multiply3(r, sorted_ + 3 * k, z);
      const int32_t j = close_ ? nearest_free_atom(z, sorted_, begin_[k], end_[k], 1, used_, stamp_, d)
                               : nearest_atom(z, sorted_, begin_[k], end_[k], d);
      steps_ += end_[k] - begin_[k];
      const double reach = guess_reach(error, radius_[k], tol_);
      if (j < 0 || d > reach * reach) return false;
      bijective &= used_[j] != stamp_;
      used_[j] = stamp_;
      p[order_[k]] = order_[j];
    }
    return true;
  }

  double residual(const double* r, const int32_t* p) const {
    double worst = 0;
    for (int64_t i = 0; i < n_; ++i) {
      const double d = residual_sq(r, y_ + 3 * i, y_ + 3 * p[i]);
      if (d > worst) worst = d;
    }
    return sqrt(worst);
  }

  // The Kabsch matrix of p and its residual.
  double fit(const int32_t* p, int det, double* r) {
    steps_ += fit_steps(n_);
    double h[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    for (int64_t i = 0; i < n_; ++i) add_outer(y_ + 3 * p[i], y_ + 3 * i, h);
    kabsch3(h, det, r);
    return residual(r, p);
  }

  // From the first guess to a permutation that is its own nearest match, in match_, with fit_ and residual_.
  bool match(const double* guess, int det) {
    bool bijective;
    if (!nearest(guess, error_, match_, bijective)) return false;
    for (int round = 0;; ++round) {
      residual_ = fit(match_, det, fit_);
      // no other atom can be nearer, where atoms are not close to each other
      if (bijective && !close_ && residual_ <= 2 * tol_) return true;
      for (int64_t i = 0; i < n_; ++i) last_[i] = match_[i];
      if (round == 4 || steps_ > kMaxSteps || !nearest(fit_, 1e300, match_, bijective)) return false;
      bool same = true;
      for (int64_t i = 0; i < n_; ++i) same &= last_[i] == match_[i];
      if (same) return bijective;
    }
  }

  // Accepts or rejects match_; its number, or 0.
  int32_t judge(int det) {
    decide(residual_, tol_, out_.margin);
    const int64_t key = keys_(match_[keys_.a], match_[keys_.b], det);
    if (residual_ > tol_ || key < 0 || table_[key] > 0) return 0;
    if (!append(match_, det, fit_, residual_)) return 0;
    table_[key] = count_;
    return count_ - 1;
  }

  // Judges match_ and, with the shortcut, what follows from it; false after a problem.
  bool accept(int det, bool shortcut) {
    const int32_t found = judge(det);
    if (found > 0 && shortcut) multiply(found);
    return out_.problem == SymmetryProblem::none;
  }

  // Looks at all products with a new operation, and at those of what they give.
  void multiply(int32_t found) {
    generators_[num_generators_++] = found;
    for (int32_t k = 0; k < count_; ++k) {
      for (int32_t m = k < found ? num_generators_ - 1 : 0; m < num_generators_; ++m) {
        const OperationSet set = operations();
        const int32_t g = generators_[m];
        const int64_t key = set.product_key(k, g);
        ++steps_;
        if (key < 0 || table_[key] > 0) continue;
        if (!within_budget()) return;
        const int32_t *p = set.permutation(k), *q = set.permutation(g);
        for (int64_t i = 0; i < n_; ++i) match_[i] = p[q[i]];
        const int det = set.dets[k] * set.dets[g];
        residual_ = fit(match_, det, fit_);
        if (residual_ > tol_) continue;  // judged again if it is matched
        judge(det);
        if (out_.problem != SymmetryProblem::none) return;
      }
    }
  }

  OperationSet operations() const { return {keys_, table_, permutations_, dets_, n_}; }

  void reserve_operations(int64_t capacity) {
    capacity_ = capacity;
    const auto size = static_cast<size_t>(capacity);
    matrices_ = static_cast<double*>(scratch_.resize(scratch_.context, kMatrices, size * 9 * 8));
    permutations_ = static_cast<int32_t*>(
        scratch_.resize(scratch_.context, kPermutations, size * static_cast<size_t>(n_) * 4 + 16));
    char* next = static_cast<char*>(scratch_.resize(scratch_.context, kOperations, size * 64 + 256));
    // grown by doubling: what lies behind has to move first
    residuals_ = carve<double>(next, capacity);
    generators_ = carve<int32_t>(next, capacity);
    dets_ = carve<int8_t>(next, capacity);
  }

  bool append(const int32_t* p, int det, const double* r, double residual) {
    if (count_ == capacity_) {
      if (count_ >= max_operations(n_)) return fail(SymmetryProblem::operations, count_);
      grow();
    }
    for (int k = 0; k < 9; ++k) matrices_[9 * static_cast<int64_t>(count_) + k] = r != nullptr ? r[k] : k % 4 == 0;
    int32_t* to = permutations_ + count_ * n_;
    for (int64_t i = 0; i < n_; ++i) to[i] = p[i];
    residuals_[count_] = residual;
    dets_[count_] = static_cast<int8_t>(det);
    ++count_;
    return true;
  }

  void grow() {
    const int64_t old = capacity_;
    char* next = static_cast<char*>(scratch_.resize(scratch_.context, kGenerated, static_cast<size_t>(old) * 64 + 256));
    double* residuals = carve<double>(next, old);
    int32_t* generators = carve<int32_t>(next, old);
    int8_t* dets = carve<int8_t>(next, old);
    for (int64_t k = 0; k < old; ++k) {
      residuals[k] = residuals_[k], generators[k] = generators_[k], dets[k] = dets_[k];
    }
    reserve_operations(2 * old < max_operations(n_) ? 2 * old : max_operations(n_));
    for (int64_t k = 0; k < old; ++k) {
      residuals_[k] = residuals[k], generators_[k] = generators[k], dets_[k] = dets[k];
    }
  }

  void choose_all() {
    int32_t* chosen =
        static_cast<int32_t*>(scratch_.resize(scratch_.context, kGroup, static_cast<size_t>(count_) * 32 + 256));
    for (int32_t k = 0; k < count_; ++k) chosen[k] = k;
    out_.chosen = chosen;
    out_.count = count_;
  }

  void finish() {
    if (count_ == 1) {
      choose_all();
      out_.order = 1;
      out_.group = group_code(Family::c1);
      for (int64_t i = 0; i < n_; ++i) orbits_[i] = in_.first + i;
      return;
    }
    Subgroup group;
    int32_t *order, *by_residual;
    uint8_t* seen;
    prepare_group(group, order, by_residual, seen);
    OperationSet set = operations();
    sort(order, by_residual, count_, [&set](int32_t g, int32_t h) { return set.before(g, h); });
    out_.closed = forms_group(set, group, order, count_);
    const auto policy = static_cast<SymmetryPolicy>(in_.policy);
    if (!out_.closed) {
      if (policy == SymmetryPolicy::generate) {
        if (!generate()) return;
        prepare_group(group, order, by_residual, seen);
        set = operations();
        sort(order, by_residual, count_, [&set](int32_t g, int32_t h) { return set.before(g, h); });
        for (int32_t k = 0; k < count_; ++k) group.members[k] = k;
        group.count = count_;
      } else {
        for (int32_t k = 0; k < count_; ++k) group.is_member[k] = 0, by_residual[k] = order[k];
        start_subgroup(group);
        // stable: equal residuals stay in the order of the result
        int32_t* rank = place_of(order);
        sort(by_residual, group.members + count_, count_, [&](int32_t g, int32_t h) {
          const double x = residual_rank(residuals_[g], tol_), y = residual_rank(residuals_[h], tol_);
          return x != y ? x < y : rank[g] < rank[h];
        });
        grow_group(set, group, by_residual, count_);
      }
    }
    out_.group = group_of_counts(count_group(set, group.members, group.count, matrices_, seen));
    int32_t kept = 0;
    const bool all = out_.closed || policy != SymmetryPolicy::closed;
    for (int32_t k = 0; k < count_; ++k) {
      if (all || group.is_member[order[k]]) order[kept++] = order[k];
    }
    out_.chosen = order;
    out_.count = out_.order = kept;
    for (int64_t i = 0; i < n_; ++i) orbits_[i] = in_.first + i;
    for (int32_t k = 1; k < kept; ++k) {
      const int32_t* p = set.permutation(order[k]);
      for (int64_t i = 0; i < n_; ++i) {
        const int64_t image = in_.first + p[i];
        orbits_[i] = image < orbits_[i] ? image : orbits_[i];
      }
    }
  }

  void prepare_group(Subgroup& group, int32_t*& order, int32_t*& by_residual, uint8_t*& seen) {
    char* next = static_cast<char*>(scratch_.resize(scratch_.context, kGroup, static_cast<size_t>(count_) * 32 + 256));
    order = carve<int32_t>(next, count_);
    by_residual = carve<int32_t>(next, count_);
    group.members = carve<int32_t>(next, 2 * count_);
    rank_ = carve<int32_t>(next, count_);
    group.is_member = carve<uint8_t>(next, count_);
    seen = carve<uint8_t>(next, count_);
    for (int32_t k = 0; k < count_; ++k) order[k] = k, group.is_member[k] = 0;
  }

  int32_t* place_of(const int32_t* order) {
    for (int32_t k = 0; k < count_; ++k) rank_[order[k]] = k;
    return rank_;
  }

  // All products, whatever their residuals.
  bool generate() {
    const int32_t given = count_;
    int32_t low[2] = {place_[keys_.a], place_[keys_.b]}, high[2] = {low[0], low[1]};
    for (int32_t k = 0; k < count_; ++k) {
      for (int32_t g = 1; g < given; ++g) {
        const int32_t *p = permutations_ + k * n_, *q = permutations_ + g * n_;
        for (int64_t i = 0; i < n_; ++i) match_[i] = p[q[i]];
        const int det = dets_[k] * dets_[g];
        bool known = false;
        for (int32_t m = 0; m < count_ && !known; ++m) {
          const int32_t* other = permutations_ + m * n_;
          known = dets_[m] == det;
          ++steps_;
          for (int64_t i = 0; i < n_ && known; ++i) known = other[i] == match_[i];
        }
        if (!within_budget()) return false;
        if (known) continue;
        if (count_ >= max_operations(n_)) return fail(SymmetryProblem::generated, count_);
        residual_ = fit(match_, det, fit_);
        if (!append(match_, det, fit_, residual_)) return false;
      }
    }
    for (int32_t k = 0; k < count_; ++k) {
      for (int c = 0; c < 2; ++c) {
        const int32_t place = place_[permutations_[k * n_ + (c == 0 ? keys_.a : keys_.b)]];
        if (place < low[c]) low[c] = place;
        if (place > high[c]) high[c] = place;
      }
    }
    keys_.a_begin = low[0], keys_.a_end = high[0] + 1, keys_.b_begin = low[1], keys_.b_end = high[1] + 1;
    const int64_t size = keys_.size();
    table_ = static_cast<int32_t*>(scratch_.resize(scratch_.context, kTable, static_cast<size_t>(size) * 4));
    for (int64_t k = 0; k < size; ++k) table_[k] = 0;
    for (int32_t k = 0; k < count_; ++k) {
      const int32_t* p = permutations_ + k * n_;
      table_[keys_(p[keys_.a], p[keys_.b], dets_[k])] = k + 1;
    }
    return true;
  }

  int32_t a_ = 0, b_ = 0;  // places
  OperationKeys keys_{};
  double frame_[3][3], error_ = 0;
  double fit_[9], residual_ = 0;

  int32_t* table_ = nullptr;
  int64_t capacity_ = 0;
  int32_t count_ = 0, num_generators_ = 0;
  double *matrices_ = nullptr, *residuals_ = nullptr;
  int32_t *permutations_ = nullptr, *generators_ = nullptr, *rank_ = nullptr;
  int8_t* dets_ = nullptr;
};

void molecule(const MoleculeInput& in, const Scratch& scratch, MoleculeSymmetry& out, int64_t* orbits) {
  Search(in, scratch, out, orbits).run();
}

constexpr StabilizerKernels kKernels{&molecule};

}  // namespace

const StabilizerKernels* SYMKERN_CONCAT(stabilizer_kernels_, SYMKERN_ISA_LEVEL)() { return &kKernels; }

}  // namespace symkern
