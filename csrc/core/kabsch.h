// 3x3 matrices as nine doubles, row by row: eigenvectors of symmetric ones, and the best rotation or
// rotation-reflection (Kabsch). Products are added by explicit fma only, so that no compiler contracts on one device
// what it leaves on the other. Internal linkage: see core/simd.h on instruction sets.
#pragma once

#include <cmath>

#include "core/macros.h"

namespace symkern {
namespace {

SYMKERN_HD double dot3(const double* a, const double* b) { return fma(a[0], b[0], fma(a[1], b[1], a[2] * b[2])); }

SYMKERN_HD void cross3(const double* a, const double* b, double* c) {
  c[0] = fma(a[1], b[2], -(a[2] * b[1]));
  c[1] = fma(a[2], b[0], -(a[0] * b[2]));
  c[2] = fma(a[0], b[1], -(a[1] * b[0]));
}

SYMKERN_HD double distance_sq3(const double* a, const double* b) {
  const double d[3] = {a[0] - b[0], a[1] - b[1], a[2] - b[2]};
  return dot3(d, d);
}

SYMKERN_HD void multiply3(const double* m, const double* v, double* out) {
  for (int i = 0; i < 3; ++i) out[i] = dot3(m + 3 * i, v);
}

// False, and unchanged, if v has no direction.
SYMKERN_HD bool normalize3(double* v) {
  const double length = sqrt(dot3(v, v));
  if (!(length > 0)) return false;
  for (int i = 0; i < 3; ++i) v[i] /= length;
  return true;
}

// A unit vector perpendicular to the unit vector v.
SYMKERN_HD void perpendicular3(const double* v, double* out) {
  int least = 0;
  for (int i = 1; i < 3; ++i) {
    if (fabs(v[i]) < fabs(v[least])) least = i;
  }
  double e[3] = {0, 0, 0};
  e[least] = 1;
  cross3(v, e, out);
  normalize3(out);
}

// One Jacobi rotation of the symmetric matrix a in the plane of p and q, which makes a[p][q] zero.
SYMKERN_HD void jacobi_rotate3(double a[3][3], double v[3][3], int p, int q) {
  const double apq = a[p][q];
  if (apq == 0) return;
  const double theta = (a[q][q] - a[p][p]) / (2 * apq);
  const double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(fma(theta, theta, 1.0)));
  const double c = 1 / sqrt(fma(t, t, 1.0)), s = t * c;
  a[p][p] = fma(-t, apq, a[p][p]);
  a[q][q] = fma(t, apq, a[q][q]);
  a[p][q] = a[q][p] = 0;
  const int k = 3 - p - q;
  const double akp = a[k][p], akq = a[k][q];
  a[k][p] = a[p][k] = fma(c, akp, -(s * akq));
  a[k][q] = a[q][k] = fma(s, akp, c * akq);
  for (int i = 0; i < 3; ++i) {
    const double vip = v[i][p], viq = v[i][q];
    v[i][p] = fma(c, vip, -(s * viq));
    v[i][q] = fma(s, vip, c * viq);
  }
}

// Eigenvectors as the columns of v, eigenvalues on the diagonal of a, in no particular order.
SYMKERN_HD void eigen3(double a[3][3], double v[3][3]) {
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) v[i][j] = i == j;
  }
  for (int sweep = 0; sweep < 16; ++sweep) {
    const double off = fma(a[0][1], a[0][1], fma(a[0][2], a[0][2], a[1][2] * a[1][2]));
    const double size = fma(a[0][0], a[0][0], fma(a[1][1], a[1][1], a[2][2] * a[2][2]));
    if (off <= 1e-36 * size) break;
    jacobi_rotate3(a, v, 0, 1);
    jacobi_rotate3(a, v, 0, 2);
    jacobi_rotate3(a, v, 1, 2);
  }
}

SYMKERN_HD void eigenvector3(const double v[3][3], int column, double* out) {
  for (int i = 0; i < 3; ++i) out[i] = v[i][column];
  normalize3(out);
}

// R = argmax tr(R^T H) over the orthogonal matrices with determinant `det` (+1 or -1); for H = sum_i y_p(i) y_i^T the
// one that minimises sum_i |R y_i - y_p(i)|^2 (Kabsch, Acta Cryst. A32 (1976) 922). The largest singular pair (u, v) is
// always mapped on each other; what is left is a problem in the plane, which has a closed form for either determinant.
// So the two small singular values are never squared, and their order and sign do not matter.
SYMKERN_HD void kabsch3(const double* h, int det, double* r) {
  double k[3][3], w[3][3];
  for (int i = 0; i < 3; ++i) {
    for (int j = i; j < 3; ++j) k[i][j] = k[j][i] = fma(h[i], h[j], fma(h[3 + i], h[3 + j], h[6 + i] * h[6 + j]));
  }
  eigen3(k, w);
  int top = k[1][1] > k[0][0] ? 1 : 0;
  if (k[2][2] > k[top][top]) top = 2;
  double u[3][3], v[3][3];  // rows are right-handed bases
  eigenvector3(w, top, v[0]);
  multiply3(h, v[0], u[0]);
  if (!normalize3(u[0])) {
    for (int i = 0; i < 3; ++i) u[0][i] = v[0][i];
  }
  perpendicular3(v[0], v[1]);
  cross3(v[0], v[1], v[2]);
  perpendicular3(u[0], u[1]);
  cross3(u[0], u[1], u[2]);
  double plane[2][2];
  for (int j = 0; j < 2; ++j) {
    double hv[3];
    multiply3(h, v[1 + j], hv);
    for (int i = 0; i < 2; ++i) plane[i][j] = dot3(u[1 + i], hv);
  }
  double c = det > 0 ? plane[0][0] + plane[1][1] : plane[0][0] - plane[1][1];
  double s = det > 0 ? plane[1][0] - plane[0][1] : plane[1][0] + plane[0][1];
  const double length = sqrt(fma(c, c, s * s));
  c = length > 0 ? c / length : 1;
  s = length > 0 ? s / length : 0;
  double x[3], y[3];  // images of v[1] and v[2]
  for (int i = 0; i < 3; ++i) {
    x[i] = fma(c, u[1][i], s * u[2][i]);
    y[i] = det > 0 ? fma(c, u[2][i], -(s * u[1][i])) : fma(s, u[1][i], -(c * u[2][i]));
  }
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) r[3 * i + j] = fma(u[0][i], v[0][j], fma(x[i], v[1][j], y[i] * v[2][j]));
  }
}

}  // namespace
}  // namespace symkern
