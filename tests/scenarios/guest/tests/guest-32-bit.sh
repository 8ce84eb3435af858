. /tests/guests.sh
# Debian 12's 32-bit kernel with PAE: each hypercall is in the layout of 32-bit code, and so are the pages shared with it. Its
# tests of its own RSA take more than a minute here.
two_cpus narrow 11 pae 6.1 cryptomgr.notests
