#include "gateway/gateway.h"

int main(int argc, char **argv)
{
    return program_main(argc, argv, &gateway_program);
}
