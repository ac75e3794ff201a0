"""Many runs that answer one question: the search for hyper-parameters."""
