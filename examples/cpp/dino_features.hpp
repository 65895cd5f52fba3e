// Decodes /dino/features, /dino/attention and /dino/embedding: sensor_msgs/Image of encoding 32FC<N>, with any number of
// channels. cv_bridge keeps channels in 9 bits and misreads 768 or 1024 of them.

#ifndef DINO_FEATURES_HPP_
#define DINO_FEATURES_HPP_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "sensor_msgs/msg/image.hpp"

namespace dino_features
{

/// A feature vector for every cell of the patch grid.
struct Features
{
  std::size_t rows;
  std::size_t columns;
  std::size_t channels;
  std::vector<float> values;  // row by row, the channels of a cell together

  /// The feature vector of a cell: `channels` floats.
  const float * at(std::size_t row, std::size_t column) const
  {
    return values.data() + (row * columns + column) * channels;
  }
};

/// The features in a message, in either byte order and with padded rows or without.
/// Throws std::invalid_argument for other encodings and for data that does not fit the stated size.
inline Features decode(const sensor_msgs::msg::Image & message)
{
  static const std::regex encoding("32FC([1-9][0-9]{0,8})");
  std::smatch match;
  if (!std::regex_match(message.encoding, match, encoding)) {
    throw std::invalid_argument("the encoding " + message.encoding + " is not 32FC<N>");
  }
  const std::size_t channels = std::stoul(match[1]);
  const std::size_t rows = message.height, columns = message.width, step = message.step;
  if (rows == 0 || columns == 0) {
    throw std::invalid_argument("the image is empty");
  }
  // Divided, not multiplied: a row may claim more bytes than size_t can count.
  if (step / sizeof(float) / channels < columns) {
    throw std::invalid_argument("a step of " + std::to_string(step) + " bytes is too small for a row");
  }
  if (message.data.size() / step < rows) {
    throw std::invalid_argument(
            std::to_string(message.data.size()) + " bytes of data are too few for " + std::to_string(rows) + " rows");
  }
  Features features{rows, columns, channels, std::vector<float>(rows * columns * channels)};
  const unsigned first = message.is_bigendian ? 24 : 0;  // bits by which the first byte of a float is shifted
  float * value = features.values.data();
  for (std::size_t row = 0; row < rows; ++row) {
    const std::uint8_t * bytes = message.data.data() + row * step;
    for (std::size_t i = 0; i < columns * channels; ++i, bytes += sizeof(float), ++value) {
      std::uint32_t bits = 0;
      for (unsigned byte = 0; byte < 4; ++byte) {
        bits |= std::uint32_t{bytes[byte]} << (first ^ (8 * byte));
      }
      std::memcpy(value, &bits, sizeof(float));
    }
  }
  return features;
}

/// Cosine similarity of the vector of one cell to that of every cell, row by row.
inline std::vector<float> similarity(const Features & features, std::size_t row, std::size_t column)
{
  const auto dot = [&features](const float * a, const float * b) {
      double sum = 0;
      for (std::size_t i = 0; i < features.channels; ++i) {
        sum += static_cast<double>(a[i]) * b[i];
      }
      return sum;
    };
  const float * asked = features.at(row, column);
  std::vector<float> similarities;
  for (std::size_t cell = 0; cell < features.rows * features.columns; ++cell) {
    const float * other = features.at(0, cell);  // columns are counted on into the next rows
    const double lengths = std::sqrt(dot(asked, asked) * dot(other, other));
    similarities.push_back(lengths > 0 ? static_cast<float>(dot(asked, other) / lengths) : 0.0F);
  }
  return similarities;
}

}  // namespace dino_features

#endif  // DINO_FEATURES_HPP_
