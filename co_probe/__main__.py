"""`python -m co_probe` is `co-probe`."""

from co_probe.cli.main import main

if __name__ == "__main__":
    main()
