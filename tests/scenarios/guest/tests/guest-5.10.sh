. /tests/guests.sh
# Debian 11's kernel, which knows one way only to be told of events: HVM_PARAM_CALLBACK_IRQ, the same vector on every CPU.
two_cpus older 10 bullseye 5.10
