// Subscribes to /dino/features and prints how similar every patch is to the one in the middle of the image, 0 to 9.
//
//     ros2 run dino_features_cpp features_subscriber

#include <cstddef>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "dino_features.hpp"
#include "rclcpp/rclcpp.hpp"
#include "sensor_msgs/msg/image.hpp"

class FeaturesSubscriber : public rclcpp::Node
{
public:
  FeaturesSubscriber()
  : Node("features_subscriber")
  {
    subscription_ = create_subscription<sensor_msgs::msg::Image>(
      "/dino/features", 1, [this](sensor_msgs::msg::Image::ConstSharedPtr message) {on_features(*message);});
  }

private:
  void on_features(const sensor_msgs::msg::Image & message) const
  {
    try {
      const dino_features::Features features = dino_features::decode(message);
      const std::vector<float> similarities =
        dino_features::similarity(features, features.rows / 2, features.columns / 2);
      std::string picture;
      for (std::size_t cell = 0; cell < similarities.size(); ++cell) {
        picture += cell % features.columns == 0 ? "\n" : " ";
        picture += std::to_string(similarities[cell] > 0 ? static_cast<int>(similarities[cell] * 9.0F) : 0);
      }
      RCLCPP_INFO(
        get_logger(), "%zu x %zu patches of %zu channels; similar to the middle:%s", features.rows, features.columns,
        features.channels, picture.c_str());
    } catch (const std::exception & error) {
      RCLCPP_WARN(get_logger(), "not a feature message: %s", error.what());
    }
  }

  rclcpp::Subscription<sensor_msgs::msg::Image>::SharedPtr subscription_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<FeaturesSubscriber>());
  rclcpp::shutdown();
  return 0;
}
