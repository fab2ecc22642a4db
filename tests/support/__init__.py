"""What tests share: the cluster of the run, loads, brokers, browsers, damage."""
