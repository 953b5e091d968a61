// What the kernels compute, as plainly as it can be said: row-major matrices, one loop per index, double precision. Tests
// compare every tier with this; the op does not contain it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace bert_op::reference {

// Row-major: element (row, column) is values[row * columns + column].
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t column_count)
      : rows(row_count), columns(column_count), values(static_cast<std::size_t>(row_count * column_count)) {}
  double& operator()(std::int64_t row, std::int64_t column) {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
  double operator()(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
};

double activate(Activation activation, double x);

// activation(x w^T + bias). x: [rows][k]; weight: [n][k], as torch stores it; bias: [n].
Matrix gemm(const Matrix& x, const Matrix& weight, const std::vector<double>& bias, Activation activation);

// Rows of 8 bits: element (row, k) stands for offset + scale * level, with a scale and an offset for each row and each
// chunk of `chunk_columns` along K. Constant chunks have scale 0.
struct QuantizedRows {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t chunk_columns;
  std::vector<std::uint8_t> levels;   // [rows][columns], 0 to 255
  std::vector<double> scale, offset;  // [rows][chunks]

  std::int64_t chunks() const { return ceil_div(columns, chunk_columns); }
  double value(std::int64_t row, std::int64_t column) const;
};

// Each chunk of `chunk_columns` rotated, step by step as kernels/rotation.h says.
Matrix rotate(const Matrix& x, std::int64_t chunk_columns);

// offset = min and scale = (max - min) / 255 of the chunk, or of static_range = {min, max}, where values beyond clamp.
QuantizedRows quantize_rows(const Matrix& x, std::int64_t chunk_columns, const double* static_range = nullptr);

// Weights of 8 bits: an element stands for its chunk's scale times a level, -127 to 127; scale = largest |w| of the chunk / 127.
struct QuantizedWeights {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t chunk_columns;
  std::vector<std::int8_t> levels;  // [rows][columns]
  std::vector<double> scale;        // [rows][chunks]

  double scale_of(std::int64_t row, std::int64_t column) const;
};

QuantizedWeights quantize_weights(const Matrix& weight, std::int64_t chunk_columns);

// gemm of what the levels stand for.
Matrix gemm(const QuantizedRows& x, const QuantizedWeights& weight, const std::vector<double>& bias,
            Activation activation);

// softmax(q k^T * scale + mask) v of one head; q, k, v: [seq_len][head_size]. mask: [seq_len][seq_len] or [1][seq_len] or
// empty. A query whose mask is -inf throughout gets zeros.
Matrix attention(const Matrix& q, const Matrix& k, const Matrix& v, double scale, const Matrix& mask);

// (x - mean) / sqrt(variance + eps) * gamma + beta, for each row.
Matrix layer_norm(const Matrix& x, const std::vector<double>& gamma, const std::vector<double>& beta, double eps);

}  // namespace bert_op::reference
