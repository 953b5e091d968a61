// Factors for the channels that a quantized linear layer reads from a LayerNorm. A row has one scale for all of its channels,
// and so has a row of weights: what is large in the one and small in the other is better shared out, x s on the one side and
// w / s on the other, which leaves the products what they were. (Xiao et al.: SmoothQuant, 2022.) No data is needed to know
// which channels are large: a LayerNorm's results have about the mean square gamma^2 + beta^2.
#pragma once

#include <cstdint>
#include <vector>

namespace bert_op {

// One factor for each of `columns` channels, for weights [rows][columns]: the fourth root of the weights' mean square over that
// of the channel, which makes the product of what both are off by the least; with 1 as geometric mean, and within 1/16 and 16.
// A channel of zeros on either side keeps 1.
std::vector<float> smoothing_factors(const float* weight, std::int64_t rows, std::int64_t columns, const float* gamma,
                                     const float* beta);

}  // namespace bert_op
