#!/bin/sh
# The first process of a User-Mode Linux whose root is the machine's, read-only. Makes what a system has when it is up, runs the
# program in its arguments, prints how that ended and turns the machine off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
release=$(uname -r)
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/tmp /run/home /run/nfs/v4recovery /run/rpc_pipefs /run/modules/lib/modules
ln -s "/usr/lib/uml/modules/$release" /run/modules/lib/modules/
mount --bind /run/nfs /var/lib/nfs
touch /run/nfs/etab /run/nfs/rmtab
for module in loop quota_v2 nfsd nfsv4 nfsv3; do
	modprobe -d /run/modules "$module"
done
ip link set lo up
# The S3 store needs extended attributes, which tmpfs has not in each kernel.
truncate -s 768M /run/disk
mkfs.ext4 -q /run/disk
mount -o loop /run/disk /run/tmp
export TMPDIR=/run/tmp HOME=/run/home
"$@"
status=$?
[ $status = 0 ] || dmesg | tail -40
echo "the program in User-Mode Linux ended with status $status"
poweroff -f
