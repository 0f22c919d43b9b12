"""What the results say: means, intervals, tests, ranks and costs, and the tables that show them."""
