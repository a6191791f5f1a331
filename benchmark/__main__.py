"""`python -m prunebench.benchmark …` is `bench …`."""

from prunebench.benchmark.cli import main

if __name__ == "__main__":
    main()
