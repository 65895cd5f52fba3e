"""`python -m dino_train`, which is what `torchrun -m dino_train` starts in every process."""

from dino_train.cli import main

if __name__ == "__main__":
    main()
