# ROS 2 Jazzy with the node on TensorRT, for Jetsons with JetPack 7 (Thor; Orin from 7.2). Never built or run yet: no Jetson was
# at hand. Build it on the Jetson; the engine is built when the node first starts, and kept in the folder that is mounted:
#     docker build -f docker/jetson.Dockerfile -t dino_ros .
#     docker run --rm -it --runtime nvidia --network host --ipc host -v ~/.cache/dino_ros:/root/.cache/dino_ros dino_ros
FROM ros:jazzy
ENV PIP_BREAK_SYSTEM_PACKAGES=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
SHELL ["/bin/bash", "-c"]
WORKDIR /ws
# NVIDIA's packages for Ubuntu 24.04 on 64-bit ARM, which JetPack 7 takes too: TensorRT for the system's Python.
ADD https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/sbsa/cuda-keyring_1.1-1_all.deb /tmp/
RUN dpkg -i /tmp/cuda-keyring_1.1-1_all.deb && rm /tmp/cuda-keyring_1.1-1_all.deb \
    && apt-get update \
    && apt-get install -y --no-install-recommends python3-libnvinfer python3-pip \
    && pip install --no-cache-dir 'cuda-bindings>=13,<14' \
    && rm -rf /var/lib/apt/lists/*
COPY package.xml setup.py setup.cfg README.md LICENSE src/dino_ros/
COPY resource src/dino_ros/resource
COPY config src/dino_ros/config
COPY launch src/dino_ros/launch
COPY examples src/dino_ros/examples
COPY dino_ros src/dino_ros/dino_ros
COPY dino_train src/dino_ros/dino_train
RUN apt-get update \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src --rosdistro jazzy -y \
    && rm -rf /var/lib/apt/lists/*
RUN source /opt/ros/jazzy/setup.bash && colcon build
CMD ["bash", "-c", "source install/setup.bash && ros2 launch dino_ros perception.launch.py"]
