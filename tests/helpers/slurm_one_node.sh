#!/usr/bin/env bash
# slurm_one_node.sh start|stop: a SLURM of one node on this machine, for tests. As root, with Debian's slurmctld, slurmd,
# slurm-client and munge.
# It has one make-believe GPU (gres gpu on /dev/null), a partition `main`, and `low`, whose jobs are preempted (requeued) by those of main.
# A slurm.conf that is not its own stops it. `stop` also ends munged if `start` began it.
set -euo pipefail
base=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm_one_node}
conf=/etc/slurm
mark="# written by slurm_one_node.sh"
case "${1:-}" in
start)
  if [ -e $conf/slurm.conf ] && ! grep -q "$mark" $conf/slurm.conf; then echo "$conf/slurm.conf is another cluster's: not touched" >&2; exit 3; fi
  # One of another folder counts too: they would share configuration and ports.
  if [ -e $conf/slurm.conf ] && timeout 10 scontrol ping 2>/dev/null | grep -q "is UP"; then echo "one runs already" >&2; exit 3; fi
  mkdir -p "$base"/{state,spool,log} $conf /run/munge
  [ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none; chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
  chown munge:munge /run/munge
  munge -n >/dev/null 2>&1 || { su -s /bin/sh munge -c /usr/sbin/munged; touch "$base/munged.ours"; }
  memory=$(( $(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 2000 ))
  printf '%s\nName=gpu File=/dev/null\n' "$mark" > $conf/gres.conf
  cat > $conf/slurm.conf <<EOF
$mark
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.log
SlurmctldPidFile=$base/slurmctld.pid
SlurmdPidFile=$base/slurmd.pid
SlurmctldPort=26817
SlurmdPort=26818
MpiDefault=none
ReturnToService=2
MinJobAge=600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=off State=UP
PartitionName=low Nodes=localhost MaxTime=INFINITE PriorityTier=1 PreemptMode=requeue State=UP
EOF
  slurmctld; sleep 1; slurmd -N localhost
  for _ in $(seq 30); do [ "$(sinfo -h -p main -o %t 2>/dev/null)" = idle ] && { sinfo; exit 0; }; sleep 1; done
  echo "the node did not become idle; see $base/log" >&2; exit 1 ;;
stop)
  for name in slurmd slurmctld; do
    [ -s "$base/$name.pid" ] && pid=$(cat "$base/$name.pid") && kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  done
  [ -e "$base/munged.ours" ] && { kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true; rm -f "$base/munged.ours"; }
  for file in slurm.conf gres.conf; do [ -e $conf/$file ] && grep -q "$mark" $conf/$file && rm -f $conf/$file || true; done ;;
*) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
