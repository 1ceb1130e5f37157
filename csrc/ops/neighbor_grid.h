// Host cell list of one structure: atoms and the periodic images that can matter, sorted into a Cartesian grid.
//
// Images are explicit ("ghost" slots), so cells of any shape and size need no special case: a cell smaller than the
// cutoff simply has more images. Coordinates are fp32 in units of the cutoff, relative to the grid: inputs of any
// magnitude keep their precision, and pairs within rounding of the cutoff are decided in fp64 afterwards.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <tuple>
#include <vector>

#include "core/lattice.h"
#include "core/workspace.h"
#include "ops/neighbor_band.h"
#include "ops/neighbor_list_simd.h"
#include "ops/neighbor_problem.h"

namespace symkern {

class NeighborGrid {
 public:
  // positions: n atoms from global index `first`; `structure` is named in errors.
  template <class T>
  NeighborGrid(const T* positions, int64_t n, int64_t first, int64_t structure, const Lattice& lattice, double cutoff)
      : n_(n), structure_(structure), lattice_(lattice) {
    Scratch scratch(n);
    wrap(positions, first, cutoff, scratch);
    number_images();
    make_slots(cutoff, scratch);
    sort_slots(scratch);
    make_stencil();
  }

  const Lattice& lattice() const { return lattice_; }
  const Slots& slots() const { return slots_; }
  // For pairs of an atom at this place: a neighbor is no further out than one cutoff more.
  Band band(float x, float y, float z) const {
    const float reach = std::max({std::fabs(x), std::fabs(y), std::fabs(z)});
    return make_band(std::isfinite(extent_) ? double{reach} + 2 : extent_);
  }
  int64_t num_slots() const { return num_slots_; }
  int image_bits() const { return image_bits_; }
  uint32_t key(int64_t atom) const { return static_cast<uint32_t>(atom << image_bits_) | home_rank_; }
  bool is_home(uint32_t key) const { return (key & image_mask()) == home_rank_; }
  uint32_t image_mask() const { return (1u << image_bits_) - 1u; }
  int64_t num_bins() const { return int64_t{1} * bins_[0] * bins_[1] * bins_[2]; }
  int32_t bin_begin(int64_t bin) const { return bin_start_[bin]; }

  // Shift of the pair (i, image of key), in units of the given cell.
  Int3 pair_shift(int64_t i, uint32_t key) const {
    const Int4 s = image_shift_[key & image_mask()];
    if (home_shift_.empty()) return {s.x, s.y, s.z};
    const Int4 j = home_shift_[key >> image_bits_], o = home_shift_[i];
    return {s.x + j.x - o.x, s.y + j.y - o.y, s.z + j.z - o.z};
  }

  const Int4* image_shifts() const { return image_shift_.data(); }
  const Int4* home_shifts() const { return home_shift_.empty() ? nullptr : home_shift_.data(); }

  // Slots that can be within the cutoff of anything in `bin`; returns their number, `runs` has room for max_runs().
  int64_t find_runs(int64_t bin, Run* runs, int64_t* num_runs) const {
    const int64_t cx = bin % bins_[0], cy = bin / bins_[0] % bins_[1], cz = bin / bins_[0] / bins_[1];
    int64_t count = 0, length = 0;
    for (const Reach& reach : stencil_) {
      const int64_t y = cy + reach.dy, z = cz + reach.dz;
      if (y < 0 || y >= bins_[1] || z < 0 || z >= bins_[2]) continue;
      const int64_t row = (z * bins_[1] + y) * bins_[0];
      const Run run{bin_start_[row + std::max<int64_t>(0, cx - reach.half_x)],
                    bin_start_[row + std::min<int64_t>(bins_[0] - 1, cx + reach.half_x) + 1]};
      if (run.begin == run.end) continue;
      length += run.end - run.begin;
      if (count > 0 && runs[count - 1].end == run.begin) {
        runs[count - 1].end = run.end;
      } else {
        runs[count++] = run;
      }
    }
    *num_runs = count;
    return length;
  }
  // Gives back what only the search needs; keys can still be turned into shifts.
  void release_slots() {
    store_.reset();
    slots_ = {};
    bin_start_ = {};
  }
  int64_t max_runs() const { return static_cast<int64_t>(stencil_.size()); }

 private:
  // Images of an atom, in all directions together: tables of them must stay small.
  static constexpr int64_t kMaxImages = int64_t{1} << 24;

  struct Reach {
    int32_t dy, dz, half_x;
  };

  struct Scratch {
    explicit Scratch(int64_t n) : wrapped(arena.allocate<Vec3>(n)), fraction(arena.allocate<Vec3>(n)) {}
    Arena arena;
    Vec3* wrapped;   // Å
    Vec3* fraction;  // in [0, 1] along periodic directions
    float *x, *y, *z;
    uint32_t* key;
    float low[3], high[3];
  };

  template <class T>
  void wrap(const T* positions, int64_t first, double cutoff, Scratch& scratch) {
    const bool any = lattice_.periodic[0] || lattice_.periodic[1] || lattice_.periodic[2];
    bool moved = false;
    if (any) home_shift_.resize(n_);
    for (int64_t i = 0; i < n_; ++i) {
      const Vec3 r = load_vec3(positions + 3 * i);
      if (SYMKERN_UNLIKELY(!(std::isfinite(r.x) && std::isfinite(r.y) && std::isfinite(r.z))))
        throw_problem(Problem::not_finite, first + i);
      if (!any) {
        scratch.wrapped[i] = r;
        continue;
      }
      Vec3 f = lattice_.fractional(r);
      double w[3] = {0, 0, 0};
      double* parts[3] = {&f.x, &f.y, &f.z};
      for (int k = 0; k < 3; ++k) {
        if (!lattice_.periodic[k]) {
          // rounding of the images would otherwise reach the cutoff
          if (SYMKERN_UNLIKELY(!(std::fabs(*parts[k]) <= 1e9 * cutoff))) throw_problem(Problem::too_far, first + i);
          continue;
        }
        w[k] = -std::floor(*parts[k]);
        *parts[k] += w[k];
        if (SYMKERN_UNLIKELY(std::fabs(w[k]) > 1e6)) {
          throw_problem(Problem::too_far, first + i);
        }
      }
      scratch.fraction[i] = f;
      if (w[0] == 0 && w[1] == 0 && w[2] == 0) {
        scratch.wrapped[i] = r;
        home_shift_[i] = {0, 0, 0, 0};
      } else {
        scratch.wrapped[i] = lattice_.image(w[0], w[1], w[2], r);
        Int3 s;
        if (!lattice_.shift(static_cast<int64_t>(w[0]), static_cast<int64_t>(w[1]), static_cast<int64_t>(w[2]), s)) {
          throw_problem(Problem::too_far, first + i);
        }
        home_shift_[i] = {s.x, s.y, s.z, 0};
        moved = true;
      }
    }
    if (!moved) home_shift_.clear();
    // An image can be within the cutoff of an atom in the cell only if its fractional coordinates are within reach.
    for (int k = 0; k < 3; ++k) reach_[k] = lattice_.periodic[k] ? cutoff / lattice_.height[k] * (1 + 1e-9) + 1e-6 : 0;
  }

  void number_images() {
    int64_t count = 1;
    for (int k = 0; k < 3; ++k) {
      // fractions lie in [0, 1], so images n with n + f in [-reach, 1 + reach] have n in [-1 - reach, 1 + reach]
      if (!(reach_[k] < kMaxImages)) throw_problem(Problem::too_many_images, structure_);  // NaN too
      image_low_[k] = lattice_.periodic[k] ? -static_cast<int32_t>(std::floor(1 + reach_[k])) : 0;
      image_span_[k] = 1 - 2 * image_low_[k];
      count *= image_span_[k];
      if (count > kMaxImages) throw_problem(Problem::too_many_images, structure_);
    }
    image_bits_ = 0;
    while ((int64_t{1} << image_bits_) < count) ++image_bits_;
    if ((static_cast<uint64_t>(n_) << image_bits_) > (uint64_t{1} << 32))
      throw_problem(Problem::too_many_images, structure_);

    // Rank images by their shift, so that sorted keys list the images of an atom in lexicographic order.
    struct Image {
      Int4 shift;
      int64_t index;
    };
    std::vector<Image> images(count);
    int64_t index = 0;
    for (int32_t a = 0; a < image_span_[0]; ++a) {
      for (int32_t b = 0; b < image_span_[1]; ++b) {
        for (int32_t c = 0; c < image_span_[2]; ++c, ++index) {
          Int3 s;
          if (!lattice_.shift(a + image_low_[0], b + image_low_[1], c + image_low_[2], s)) {
            throw_problem(Problem::too_many_images, structure_);
          }
          images[index] = {{s.x, s.y, s.z, 0}, index};
        }
      }
    }
    const auto before = [](const Image& p, const Image& q) {
      return std::tie(p.shift.x, p.shift.y, p.shift.z) < std::tie(q.shift.x, q.shift.y, q.shift.z);
    };
    if (!std::is_sorted(images.begin(), images.end(), before)) std::sort(images.begin(), images.end(), before);
    image_shift_.resize(count);
    image_rank_.resize(count);
    for (int64_t rank = 0; rank < count; ++rank) {
      image_shift_[rank] = images[rank].shift;
      image_rank_[images[rank].index] = static_cast<uint32_t>(rank);
    }
    home_rank_ = image_rank_[image_index(0, 0, 0)];
  }

  int64_t image_index(int32_t a, int32_t b, int32_t c) const {
    return (int64_t{a - image_low_[0]} * image_span_[1] + (b - image_low_[1])) * image_span_[2] + (c - image_low_[2]);
  }

  // Images of atom i: the product of three ranges.
  void image_range(const Vec3& fraction, int32_t low[3], int32_t high[3]) const {
    const double f[3] = {fraction.x, fraction.y, fraction.z};
    for (int k = 0; k < 3; ++k) {
      if (lattice_.periodic[k]) {
        low[k] = static_cast<int32_t>(std::ceil(-reach_[k] - f[k]));
        high[k] = static_cast<int32_t>(std::floor(1 + reach_[k] - f[k]));
      } else {
        low[k] = high[k] = 0;
      }
    }
  }

  // Median of each coordinate: fp32 is precise near it, and a few atoms far away do not move it.
  Vec3 typical_place(const Scratch& scratch) const {
    if (n_ == 0) return {0, 0, 0};
    std::vector<double> sample;
    double middle[3];
    for (int k = 0; k < 3; ++k) {
      sample.clear();
      for (int64_t i = 0; i < n_; i += n_ / 1024 + 1) {
        const Vec3 r = scratch.wrapped[i];
        sample.push_back(k == 0 ? r.x : k == 1 ? r.y : r.z);
      }
      std::nth_element(sample.begin(), sample.begin() + sample.size() / 2, sample.end());
      middle[k] = sample[sample.size() / 2];
    }
    return {middle[0], middle[1], middle[2]};
  }

  void make_slots(double cutoff, Scratch& scratch) {
    const bool any = lattice_.periodic[0] || lattice_.periodic[1] || lattice_.periodic[2];
    int32_t low[3] = {0, 0, 0}, high[3] = {0, 0, 0};
    num_slots_ = 0;
    for (int64_t i = 0; i < n_; ++i) {
      if (any) image_range(scratch.fraction[i], low, high);
      num_slots_ += int64_t{high[0] - low[0] + 1} * (high[1] - low[1] + 1) * (high[2] - low[2] + 1);
    }
    if (num_slots_ > std::numeric_limits<int32_t>::max() - 64) throw_problem(Problem::too_many_images, structure_);
    const Vec3 middle = typical_place(scratch);
    const double scale = 1 / cutoff;
    scratch.x = scratch.arena.allocate<float>(num_slots_);
    scratch.y = scratch.arena.allocate<float>(num_slots_);
    scratch.z = scratch.arena.allocate<float>(num_slots_);
    scratch.key = scratch.arena.allocate<uint32_t>(num_slots_);
    int64_t s = 0;
    for (int k = 0; k < 3; ++k) scratch.low[k] = std::numeric_limits<float>::max(), scratch.high[k] = -scratch.low[k];
    const auto put = [&](Vec3 r, uint32_t key) {
      const Vec3 local = scale * (r - middle);
      const float p[3] = {static_cast<float>(local.x), static_cast<float>(local.y), static_cast<float>(local.z)};
      for (int k = 0; k < 3; ++k) {
        scratch.low[k] = std::min(scratch.low[k], p[k]);
        scratch.high[k] = std::max(scratch.high[k], p[k]);
      }
      scratch.x[s] = p[0], scratch.y[s] = p[1], scratch.z[s] = p[2], scratch.key[s] = key;
      ++s;
    };
    for (int64_t i = 0; i < n_; ++i) {
      const Vec3 r = scratch.wrapped[i];
      if (any) image_range(scratch.fraction[i], low, high);
      const uint32_t base = static_cast<uint32_t>(i << image_bits_);
      for (int32_t a = low[0]; a <= high[0]; ++a) {
        for (int32_t b = low[1]; b <= high[1]; ++b) {
          for (int32_t c = low[2]; c <= high[2]; ++c) {
            const bool home = a == 0 && b == 0 && c == 0;
            put(home ? r : lattice_.image(a, b, c, r), base | image_rank_[image_index(a, b, c)]);
          }
        }
      }
    }
    double extent = 0;
    for (int k = 0; k < 3; ++k) {
      extent = std::max({extent, std::fabs(double{scratch.low[k]}), std::fabs(double{scratch.high[k]})});
    }
    // Coordinates beyond this are so far apart that fp32 tells nothing: leave every pair to fp64.
    extent_ = n_ > 0 && extent < 1e30 ? extent : n_ > 0 ? std::numeric_limits<double>::infinity() : 0;
  }

  void sort_slots(const Scratch& scratch) {
    // Bins: short along x, where runs of bins are consecutive in memory; longer along y and z (measured). Not more bins
    // than slots, so that a few atoms in a huge box cost little memory.
    double width[3] = {0.25, 0.5, 1.0};
    float low[3] = {scratch.low[0], scratch.low[1], scratch.low[2]};
    float high[3] = {scratch.high[0], scratch.high[1], scratch.high[2]};
    const double most = 64 + 4.0 * static_cast<double>(num_slots_);
    if (count_bins(low, high, width) > most) exclude_outliers(scratch, low, high);
    while (count_bins(low, high, width) > most) {
      int widest = 0;  // the direction with most bins gives way
      for (int k = 1; k < 3; ++k) {
        if ((high[k] - low[k]) / width[k] > (high[widest] - low[widest]) / width[widest]) widest = k;
      }
      width[widest] *= 1.26;
    }
    for (int k = 0; k < 3; ++k) {
      bins_[k] = std::isfinite(extent_) && num_slots_ > 0 ? static_cast<int32_t>((high[k] - low[k]) / width[k]) + 1 : 1;
      bin_width_[k] = width[k];
      grid_extent_ = std::max({grid_extent_, std::fabs(double{low[k]}), std::fabs(double{high[k]})});
    }
    const int64_t bins = num_bins();
    bin_start_.assign(bins + 1, 0);
    Arena local;
    int32_t* bin = local.allocate<int32_t>(num_slots_);
    float inverse[3];
    for (int k = 0; k < 3; ++k) inverse[k] = static_cast<float>(1 / width[k]);
    for (int64_t s = 0; s < num_slots_; ++s) {
      const float p[3] = {scratch.x[s], scratch.y[s], scratch.z[s]};
      int32_t c[3];
      for (int k = 0; k < 3; ++k) {
        // what lies beyond goes to the outermost bin: clamping brings no two points further apart
        const float place = std::max(0.0f, std::min((p[k] - low[k]) * inverse[k], static_cast<float>(bins_[k] - 1)));
        c[k] = bins_[k] == 1 ? 0 : static_cast<int32_t>(place);
      }
      bin[s] = (c[2] * bins_[1] + c[1]) * bins_[0] + c[0];
      ++bin_start_[bin[s] + 1];
    }
    for (int64_t b = 0; b < bins; ++b) bin_start_[b + 1] += bin_start_[b];
    // 64 readable floats past the end: the search loads whole vectors
    const int64_t padded = num_slots_ + 64;
    float* x = store_->allocate<float>(padded);
    float* y = store_->allocate<float>(padded);
    float* z = store_->allocate<float>(padded);
    uint32_t* key = store_->allocate<uint32_t>(padded);
    std::vector<int32_t> next(bin_start_.begin(), bin_start_.end() - 1);
    for (int64_t s = 0; s < num_slots_; ++s) {
      const int32_t to = next[bin[s]]++;
      x[to] = scratch.x[s], y[to] = scratch.y[s], z[to] = scratch.z[s], key[to] = scratch.key[s];
    }
    for (int64_t s = num_slots_; s < padded; ++s) x[s] = y[s] = z[s] = 0, key[s] = 0;
    slots_ = {x, y, z, key};
  }

  double count_bins(const float* low, const float* high, const double* width) const {
    if (!std::isfinite(extent_) || num_slots_ == 0) return 1;  // one bin holds everything
    double total = 1;
    for (int k = 0; k < 3; ++k) total *= std::floor((double{high[k]} - double{low[k]}) / width[k]) + 1;
    return total;
  }

  // A few atoms far away must not make the bins of all others large: the grid covers the middle 98 % generously.
  void exclude_outliers(const Scratch& scratch, float* low, float* high) const {
    const int64_t step = num_slots_ / 4096 + 1;
    const float* coordinates[3] = {scratch.x, scratch.y, scratch.z};
    std::vector<float> sample;
    for (int k = 0; k < 3; ++k) {
      sample.clear();
      for (int64_t s = 0; s < num_slots_; s += step) sample.push_back(coordinates[k][s]);
      const size_t tail = sample.size() / 100;
      std::nth_element(sample.begin(), sample.begin() + tail, sample.end());
      const float first = sample[tail];
      std::nth_element(sample.begin(), sample.end() - 1 - tail, sample.end());
      const float last = *(sample.end() - 1 - tail), margin = 0.1f * (last - first) + 1;
      low[k] = std::max(low[k], first - margin);
      high[k] = std::min(high[k], last + margin);
    }
  }

  // For a point anywhere in its bin: which rows of bins, and how many bins along x, can hold a neighbor.
  void make_stencil() {
    const double fuzz = std::isfinite(extent_) ? (grid_extent_ + 1) * 0x1p-20 : 0;  // rounding of the bin boundaries
    const auto gap = [&](int32_t d, int k) {
      return d == 0 ? 0 : std::max(0.0, (std::abs(d) - 1) * bin_width_[k] - fuzz);
    };
    const double limit = 1 + fuzz;
    const auto steps = [&](int k) {
      return static_cast<int32_t>(std::min<double>(bins_[k] - 1, std::floor((limit + fuzz) / bin_width_[k]) + 1));
    };
    const int32_t ry = steps(1), rz = steps(2);
    for (int32_t dz = -rz; dz <= rz; ++dz) {
      for (int32_t dy = -ry; dy <= ry; ++dy) {
        const double left = limit * limit - gap(dy, 1) * gap(dy, 1) - gap(dz, 2) * gap(dz, 2);
        if (left < 0) continue;
        const double half = std::floor((std::sqrt(left) + fuzz) / bin_width_[0]) + 1;
        stencil_.push_back({dy, dz, static_cast<int32_t>(std::min<double>(half, bins_[0]))});
      }
    }
  }

  int64_t n_;
  int64_t structure_;
  Lattice lattice_;
  double reach_[3] = {0, 0, 0};
  int32_t image_low_[3] = {0, 0, 0}, image_span_[3] = {1, 1, 1};
  int image_bits_ = 0;
  uint32_t home_rank_ = 0;
  std::vector<Int4> image_shift_;     // by rank
  std::vector<uint32_t> image_rank_;  // by position in the product of ranges
  std::vector<Int4> home_shift_;      // per atom, from where it is to its wrapped place; empty if all are in the cell
  int64_t num_slots_ = 0;
  double extent_ = 0;
  double grid_extent_ = 0;  // of what the bins cover
  Slots slots_{};
  int32_t bins_[3] = {1, 1, 1};
  double bin_width_[3] = {1, 1, 1};
  std::vector<int32_t> bin_start_;
  std::vector<Reach> stencil_;
  std::unique_ptr<Arena> store_ = std::make_unique<Arena>();
};

}  // namespace symkern
