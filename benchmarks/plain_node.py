"""The baseline of `runtime.py`: the node people write today, everything in one callback, torch eager.

Converts the message as cv_bridge does, resizes with OpenCV, normalizes in NumPy, runs timm's ViT and publishes the
paper's mask. It is not slow on purpose: inference mode, all cores, the newest frame only.
"""

from __future__ import annotations

import argparse
import sys

import cv2
import numpy as np
import rclpy
import timm
import torch
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from students import SHAPES

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class PlainNode(Node):
    """Subscribes to `image`, publishes `attention_mask`."""

    def __init__(self, shape: str) -> None:
        super().__init__("plain")
        self.model = timm.create_model(SHAPES[shape], num_classes=0, global_pool="token").eval()
        self.model.blocks[-1].attn.fused_attn = False
        self.model.blocks[-1].attn.attn_drop.register_forward_hook(self._keep_attention)
        self.publisher = self.create_publisher(Image, "attention_mask", 5)
        self.create_subscription(
            Image, "image", self._on_image, QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        )

    def _keep_attention(self, module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self.attention = output

    def _on_image(self, message: Image) -> None:
        rgb = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.width, 3)
        resized = cv2.resize(rgb, (224, 224), interpolation=cv2.INTER_AREA)
        normalized = (resized.astype(np.float32) / 255.0 - MEAN) / STD
        with torch.inference_mode():
            self.model(torch.from_numpy(normalized.transpose(2, 0, 1)[None]))
        attention = self.attention[0, :, 0, 1:].mean(0).numpy()
        order = np.argsort(-attention)
        kept = order[: np.searchsorted(np.cumsum(attention[order]), 0.6 * attention.sum()) + 1]
        mask = np.zeros(attention.size, dtype=np.uint8)
        mask[kept] = 255
        side = int(attention.size**0.5)
        full = cv2.resize(mask.reshape(side, side), (message.width, message.height), interpolation=cv2.INTER_NEAREST)
        answer = Image(header=message.header, height=message.height, width=message.width, encoding="mono8")
        answer.step = message.width
        answer.data = full.tobytes()
        self.publisher.publish(answer)


def main() -> None:
    """Run until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=list(SHAPES))
    options, for_ros = parser.parse_known_args()
    rclpy.init(args=[sys.argv[0], *for_ros])
    try:
        rclpy.spin(PlainNode(options.shape))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
