// The nearest of some atoms where equal distances are the rule: ties are broken by coordinates, never by the order of
// the atoms, so that a choice depends on the geometry alone.
#pragma once

#include "core/vec3.h"

#include <cstdint>

namespace symkern {

// What comes after the distance: of all candidates within `tie` of the smallest distance, those within `tie` of the
// smallest x of these, then y, then z; of what is left (atoms in one place) the first in exact (x, y, z). Each step
// looks at a set, so the order of the candidates does not matter.
//
// `candidate(k, distance, position)` fills in candidate k of `count`, or returns false to leave it out. Returns -1 if
// there is none.
template <class F>
SYMKERN_HD int64_t nearest_with_ties(int64_t count, double tie, const F& candidate) {
  double limit[4];  // of the distance and of x, y, z
  for (int step = 0; step < 4; ++step) {
    double least = INFINITY;
    for (int64_t k = 0; k < count; ++k) {
      double key[4];
      if (!candidate(k, key)) continue;
      bool in = true;
      for (int s = 0; s < step; ++s) in = in && key[s] <= limit[s];
      if (in && key[step] < least) least = key[step];
    }
    limit[step] = least + tie;
  }
  int64_t best = -1;
  double first[4] = {};
  for (int64_t k = 0; k < count; ++k) {
    double key[4];
    if (!candidate(k, key)) continue;
    bool in = true;
    for (int s = 0; s < 4; ++s) in = in && key[s] <= limit[s];
    if (!in) continue;
    bool before = best < 0;
    for (int s = 1; s < 4 && !before; ++s) {
      if (key[s] != first[s]) {
        before = key[s] < first[s];
        break;
      }
    }
    if (before) {
      best = k;
      for (int s = 0; s < 4; ++s) first[s] = key[s];
    }
  }
  return best;
}

}  // namespace symkern
