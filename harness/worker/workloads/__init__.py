"""What is done with a model beside calls of one shape: a file for each workload."""
