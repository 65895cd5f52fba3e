# ROS 2 Jazzy with the node, for a PC. Never built yet: no machine with Docker was at hand.
#     docker build -f docker/desktop.Dockerfile -t dino_ros .
#     docker run --rm -it --network host --ipc host dino_ros    # DDS shares memory with cameras outside the container
# That runs on CPUs. For a GeForce or RTX card, with NVIDIA's container toolkit:
#     docker build -f docker/desktop.Dockerfile --build-arg 'ENGINE=tensorrt-rtx-cu13>=1.4 cuda-bindings>=13' -t dino_ros .
#     docker run --rm -it --gpus all --network host --ipc host -v ~/.cache/dino_ros:/root/.cache/dino_ros dino_ros
FROM ros:jazzy
ARG ENGINE=openvino
ENV PIP_BREAK_SYSTEM_PACKAGES=1
SHELL ["/bin/bash", "-c"]
WORKDIR /ws
COPY package.xml setup.py setup.cfg README.md LICENSE src/dino_ros/
COPY resource src/dino_ros/resource
COPY config src/dino_ros/config
COPY launch src/dino_ros/launch
COPY examples src/dino_ros/examples
COPY dino_ros src/dino_ros/dino_ros
COPY dino_train src/dino_ros/dino_train
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && pip install --no-cache-dir $ENGINE \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src --rosdistro jazzy -y \
    && rm -rf /var/lib/apt/lists/*
RUN source /opt/ros/jazzy/setup.bash && colcon build
CMD ["bash", "-c", "source install/setup.bash && ros2 launch dino_ros perception.launch.py"]
