// main of every test program: runs all tests, or those whose names contain the first argument.
#include "tests/check.h"

int main(int argc, char** argv) { return bert_op::testing::run_tests(argc, argv); }
