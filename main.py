"""Runs an experiment: python main.py --config=configs/abd_cifar100.py --config.seeds="(0,1,2)"."""

from cljax.__main__ import main

if __name__ == "__main__":
    main()
