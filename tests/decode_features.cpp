// Decodes a serialized sensor_msgs/Image with examples/cpp/dino_features.hpp: writes rows, columns and channels (uint64),
// the values, and the similarities to the middle (float) to the standard output.

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "dino_features.hpp"
#include "rmw/rmw.h"
#include "rosidl_typesupport_cpp/message_type_support.hpp"
#include "sensor_msgs/msg/image.hpp"

template<typename T>
void write(const std::vector<T> & values)
{
  std::cout.write(reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T));
}

int main(int, char ** argv)
{
  std::ifstream file(argv[1], std::ios::binary);
  std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  rmw_serialized_message_t serialized = rmw_get_zero_initialized_serialized_message();
  serialized.buffer = bytes.data();
  serialized.buffer_length = serialized.buffer_capacity = bytes.size();
  sensor_msgs::msg::Image message;
  const auto * type = rosidl_typesupport_cpp::get_message_type_support_handle<sensor_msgs::msg::Image>();
  if (rmw_deserialize(&serialized, type, &message) != RMW_RET_OK) {
    std::cerr << "not an Image\n";
    return 2;
  }
  try {
    const dino_features::Features features = dino_features::decode(message);
    write(std::vector<std::uint64_t>{features.rows, features.columns, features.channels});
    write(features.values);
    write(dino_features::similarity(features, features.rows / 2, features.columns / 2));
  } catch (const std::exception & error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
