"""The parts that the files at the root are made of; of these a part knows `config` alone."""
