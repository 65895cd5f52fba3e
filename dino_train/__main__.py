"""`python -m dino_train`, which `torchrun -m dino_train` runs in every process."""

from dino_train.cli import main

if __name__ == "__main__":
    main()
