#!/usr/bin/env bash
# The recipe, from audio to a verification report. ./run.sh --help explains; README.md says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=1
stop_stage=8
corpus=egs/mini
data=
config=
loss=
model=
exp_dir=
exp_root=
overrides=
resume=true
allow_world_size_change=false
table5=false
prepare_opts=
vox_root=
download=
subset=
codec=
pack_opts=
extract_opts=
num_workers=$(nproc)
num_processes=1
gpus=
score_norm_method=asnorm
top_n=
num_resamples=1000
num_nodes=1
node_rank=
max_restarts=0
HOST_NODE_ADDR=localhost:29400
job_id=2024

options=(stage stop_stage corpus data config loss model exp_dir exp_root overrides resume allow_world_size_change table5
  prepare_opts vox_root download subset codec pack_opts extract_opts num_workers
  num_processes gpus score_norm_method top_n num_resamples num_nodes node_rank max_restarts HOST_NODE_ADDR job_id)

help_message="Usage: ./run.sh [--name value | --name=value] ...

Trains and evaluates a speaker-verification system. Without options: the corpus egs/mini (real recorded voices, downloaded
as Debian packages), Q-Margin, all stages. A stage whose inputs have not changed is skipped.

Stages:
  1  prepare    download and prepare the corpus: wav.scp, utt2spk, trial lists
  2  pack       pack audio, noise and room impulse responses into shards
  3  train      train the network
  4  extract    average the last checkpoints, extract embeddings (and the baselines': untrained network, LTAS, and with
                model_init the network that the training began with)
  5  score      score the trials
  6  normalise  normalise the scores against the training speakers (AS-norm)
  7  calibrate  turn them into log-likelihood ratios, where the corpus has a list to calibrate on
  8  export     write the model as a folder to be copied and used (wespeaker-qm verify a.wav b.wav): weights, cohort,
                calibration, thresholds
  Each of 5 to 7 ends with the evaluation: TAR@FAR, EER, minDCF with intervals, DET plot, report.md, report.html

Options (default in brackets; paths are relative to the folder of run.sh; the entries of STR, FILES and LIST stand apart by
spaces, tabs or new lines, and one that holds spaces in quotes: --prepare_opts \"--audio_root '/my recordings'\"):
  --stage N             first stage [${stage}]
  --stop_stage N        last stage [${stop_stage}]
  --corpus DIR          corpus to prepare, a folder of egs/ [${corpus}]
  --prepare_opts STR    further options of the corpus's preparation (wespeaker-qm prepare --help) []
  --vox_root DIR        egs/voxceleb: where VoxCeleb, MUSAN and RIRS_NOISES lie, in any layout [downloads/voxceleb]
  --download BOOL       egs/voxceleb: download what is not there, resuming what was interrupted [corpus.yaml's, else false]
  --subset BOOL         egs/voxceleb: go on with a part of VoxCeleb; every report says so [corpus.yaml's, else false]
  --codec wav|flac      of the packed audio; wav is read faster, flac takes half the space [wav]
  --pack_opts STR       further options of packing (wespeaker-qm pack --help), e.g. \"--max_bad_fraction 0.001\" []
  --extract_opts STR    further options of extraction (wespeaker-qm extract --help), e.g. \"--trim_silence false\" []
  --data DIR            prepared data [data/<corpus>]
  --config FILES        configurations, merged left to right [conf/resnet34.yaml and, if there is one, <corpus>/conf.yaml]
  --loss FILE           loss overlay [conf/loss/qmargin_a1.5.yaml; with --config, what the configuration says]
  --model DIR           finished model (a folder with config.yaml and avg_model.pt) to evaluate, in the place of stage 3 []
  --overrides STR       settings over all files, e.g. \"num_epochs=3 dataset_args.num_frms=100\" []
  --exp_dir DIR         results of this run [<exp_root>/<loss>, with --model <exp_root>/with_<name of its folder>]
  --exp_root DIR        results of this corpus, with the baselines that its runs share [exp/<corpus>]
  --resume BOOL         go on after the last checkpoint of an interrupted training [${resume}]
  --allow_world_size_change BOOL  go on with another number of processes, or another batch size [${allow_world_size_change}]
  --table5 BOOL         run stages 3 to 8 for each loss of the paper's Table 5, then print the table [${table5}]
  --num_workers N       processes that prepare and pack [the number of CPU cores: ${num_workers}]
  --num_processes N     training processes on this machine, one a GPU [${num_processes}, or the number of --gpus]
  --gpus LIST           GPUs to use, e.g. \"[0,1]\" or 0,1 [all that CUDA shows, one process]
  --score_norm_method M asnorm or snorm [${score_norm_method}]
  --top_n N             asnorm: how many of the nearest training speakers count [300; alone, stage 7 takes what stage 6 took]
  --num_resamples N     resamples of the speakers, for the intervals; 0 for none [${num_resamples}]
  --num_nodes N         machines that train together, with the same command; all but the first run stage 3 only [${num_nodes}]
  --node_rank N         number of this machine, 0 for the first [0 where HOST_NODE_ADDR is this machine's, else not 0]
  --max_restarts N      how often several training processes are started again after one of them has died [${max_restarts}]
  --HOST_NODE_ADDR STR  host:port of the first machine [${HOST_NODE_ADDR}]
  --job_id N            name of the joint training [${job_id}]
  --help                print this

Example: CosFace on the data that ./run.sh has prepared, for 10 epochs
  ./run.sh --stage 3 --loss conf/loss/cosface.yaml --overrides num_epochs=10 --exp_dir exp/mini/cosface_10
and its model on recordings of other speakers, all of whom are evaluated
  ./run.sh --corpus egs/folder --prepare_opts \"--audio_root /recordings --eval_speakers all\" --model exp/mini/cosface_10"

arguments=("$@")
. tools/parse_options.sh
parse_options "$@"

die() {
  echo "$0: $1" >&2
  exit 1
}

for number in "${stage}" "${stop_stage}"; do
  if [ "${number}" -lt 1 ] || [ "${number}" -gt 8 ]; then
    die "found stage ${number}, expected 1 to 8: 1 prepare, 2 pack, 3 train, 4 extract, 5 score, 6 normalise, 7 calibrate," \
      "8 export"
  fi
done
[ "${stage}" -le "${stop_stage}" ] || die "--stage ${stage} comes after --stop_stage ${stop_stage}: nothing to do"
for bound in num_workers=1 num_processes=1 num_nodes=1 max_restarts=0 top_n=2 num_resamples=0; do # now, not after a day of training
  name=${bound%=*}
  [ -z "${!name}" ] || [ "${!name}" -ge "${bound#*=}" ] 2>/dev/null ||
    die "--${name}: found ${!name}, expected at least ${bound#*=}"
done
[[ "${node_rank}" =~ ^[0-9]*$ ]] && [ "${node_rank:-0}" -lt "${num_nodes}" ] ||
  die "--node_rank: found ${node_rank}, expected 0 to $((num_nodes - 1)), one less than --num_nodes"
[ "${num_resamples}" -ne 1 ] || die "--num_resamples: found 1, expected 0 or at least 2"
for name in download subset; do
  case ${!name} in "" | true | false) ;; *) die "--${name}: found ${!name}, expected true or false" ;; esac
done
case ${codec} in "" | wav | flac) ;; *) die "--codec: found ${codec}, expected wav or flac" ;; esac
case ${score_norm_method} in asnorm | snorm) ;; *)
  die "--score_norm_method: found ${score_norm_method}, expected asnorm or snorm"
  ;;
esac
corpus=${corpus%/}
[ -d "${corpus}" ] || die "--corpus: found no folder ${corpus}; there are: $(echo egs/*)"
if [ "${table5}" = true ] && [ -n "${loss}${exp_dir}" ]; then
  die "--table5 true trains every loss of conf/table5.yaml into <exp_root>/<loss>: leave out --loss and --exp_dir"
fi

name=$(basename "${corpus}")
data=${data:-data/${name}}
exp_root=${exp_root:-exp/$(basename "${data}")}
if [ -n "${model}" ]; then
  [ -d "${model}" ] || die "--model: found no folder ${model}, expected one with config.yaml and avg_model.pt"
  [ "${table5}" = false ] && [ -z "${config}${loss}${overrides}" ] ||
    die "--model ${model} has a configuration of its own: leave out --config, --loss, --overrides and --table5"
  [ "${stage}" -ne 3 ] || [ "${stop_stage}" -ne 3 ] || die "--model ${model} is not trained (stage 3): nothing to do"
  exp_dir=${exp_dir:-${exp_root}/with_$(basename "${model}")}
fi
if [ -z "${config}" ]; then
  config=conf/resnet34.yaml
  if [ -f "${corpus}/conf.yaml" ]; then
    config+=" ${corpus}/conf.yaml"
  fi
  loss=${loss:-conf/loss/qmargin_a1.5.yaml}
fi
split_option config_files --config "${config}"
[ "${#config_files[@]}" -gt 0 ] || die "--config: found no file in it, expected at least one"
split_option override_list --overrides "${overrides}"
split_option prepare_list --prepare_opts "${prepare_opts}"
split_option pack_list --pack_opts "${pack_opts}"
split_option extract_list --extract_opts "${extract_opts}"
extracting=(--data "${data}" ${extract_list[@]+"${extract_list[@]}"})
for name in vox_root download subset; do # only those given: other corpora do not know them, nor need to be told false
  if [ -n "${!name}" ] && { [ "${!name}" != false ] || grep -q "^${name}:" "${corpus}/corpus.yaml"; }; then
    prepare_list+=("--${name}" "${!name}")
  fi
done
for file in "${config_files[@]}" ${loss:+"${loss}"}; do
  [ -f "${file}" ] || die "found no configuration ${file}; losses are: $(echo conf/loss/*.yaml)"
done
if [ -n "${gpus}" ]; then
  split_option gpu_list --gpus "$(tr '[],' '   ' <<<"${gpus}")"
  for gpu in "${gpu_list[@]}"; do
    [[ "${gpu}" =~ ^[0-9]+$ ]] || die "--gpus: found ${gpu}, expected a list of numbers such as 0,1"
  done
  CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpu_list[*]}")
  export CUDA_VISIBLE_DEVICES
  num_processes=${#gpu_list[@]}
  [ "${num_processes}" -ge 1 ] || die "--gpus: found ${gpus}, expected a list of numbers such as 0,1"
fi

. ./path.sh

if [ -n "${gpus}" ]; then
  visible=$("${PYTHON}" -c 'import torch; print(torch.cuda.device_count())')
  [ "${visible}" -eq "${num_processes}" ] ||
    die "--gpus: found ${CUDA_VISIBLE_DEVICES}, but of these CUDA shows ${visible} (nvidia-smi lists what this machine has)"
fi

announce() {
  echo "$(date '+%F %T') $1"
}

duration() { # $1 seconds, in words
  if [ "$1" -lt 100 ]; then
    echo "$1 s"
  elif [ "$1" -lt 6000 ]; then
    echo "$((($1 + 30) / 60)) min"
  else
    echo "$(($1 / 3600)) h $((($1 % 3600) / 60)) min"
  fi
}

running= # the stage at work, and where the seconds that it took go: log/<stage>.seconds beside its logs
record=
begin() { # end the stage at work; announce stage $2, whose logs are in $1, by the text $3
  finish
  local seconds=
  local name=${2,,}
  running=$2 record=$1/log/${name// /_}.seconds started=$(date +%s.%N)
  begun=${SECONDS}
  if [ -f "${record}" ]; then
    seconds=$(<"${record}")
  fi
  if [[ "${seconds}" =~ ^[0-9]{1,9}$ ]]; then
    announce "$2: $3; it took $(duration "${seconds}") the last time"
  else
    announce "$2: $3"
  fi
}

finish() { # say how long the stage at work took, and keep it, if it did anything: then a marker is newer
  local seconds folder=${record%/log/*}
  if [ -n "${running}" ] && [ -d "${folder}/log" ] &&
    [ -n "$(find "${folder}" "${data}" -path '*/.done/*' -newermt "@${started}" -print -quit 2>/dev/null)" ]; then
    seconds=$((SECONDS - begun))
    if "${is_first}"; then
      echo "${seconds}" >"${record}"
    fi
    announce "${running}: done in $(duration "${seconds}")"
  fi
  running=
}

is_first=true # of the machines that train together
if [ "${num_nodes}" -gt 1 ]; then
  status=0
  if [ -n "${node_rank}" ]; then
    [ "${node_rank}" -eq 0 ] || status=1
  else
    "${PYTHON}" tools/is_this_machine.py "${HOST_NODE_ADDR}" || status=$?
  fi
  case ${status} in
  0) ;;
  1)
    is_first=false
    announce "The first of the ${num_nodes} machines is ${HOST_NODE_ADDR}: this one runs stage 3 only, and waits for it there"
    ;;
  *) die "--HOST_NODE_ADDR: found ${HOST_NODE_ADDR}, expected host:port of the first machine; or number the machines by --node_rank" ;;
  esac
fi

wants() { # whether stage $1 is to run, on this machine; "evaluation" ends stages 5 to 7, a finished model has no 3
  if [ "$1" = evaluation ]; then
    "${is_first}" && [ "${stop_stage}" -ge 5 ] && [ "${stage}" -le 7 ]
  elif [ "$1" -eq 3 ] && [ -n "${model}" ]; then
    return 1
  else
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && { "${is_first}" || [ "$1" -eq 3 ]; }
  fi
}

await_first_machine() { # until it has come to stage 3: it may be preparing and packing for hours
  local host=${HOST_NODE_ADDR%:*} port=29400
  if [[ "${HOST_NODE_ADDR}" =~ :([0-9]+)$ ]]; then
    port=${BASH_REMATCH[1]}
  fi
  until (: <"/dev/tcp/${host}/${port}") 2>/dev/null; do
    sleep 2
  done
}

child= # the command at work; "new" until its number is known
asked=0 # number of the signal that asked this script to end
pass_on() { # ask the command at work to end by signal $1; it takes its time: a training saves its state first
  asked=$2
  [ -n "${child}" ] || exit $((128 + asked))
  [ "${child}" = new ] || kill -s "$1" "${child}" 2>/dev/null || true
}
trap 'pass_on TERM 15' TERM
trap 'pass_on INT 2' INT
trap 'pass_on TERM 10' USR1 # Slurm's --signal=USR1@120; torchrun does not know it
export WESPEAKER_QM_PARENT=$$ # should this script be killed, its commands end by themselves
printf -v WESPEAKER_QM_COMMAND '%q ' "$0" ${arguments[@]+"${arguments[@]}"}
export WESPEAKER_QM_COMMAND

at_work() { # run a command, and end with its status when all of its processes have ended
  local status
  child=new
  set -m # a process group of its own: a terminal's ^C comes through here, and only once
  "$@" </dev/null &
  child=$!
  set +m
  [ "${asked}" -eq 0 ] || kill -s TERM "${child}" 2>/dev/null || true
  while true; do
    status=0
    wait "${child}" || status=$? # also where a signal has been passed on
    kill -0 "${child}" 2>/dev/null || break
  done
  if [ "${status}" -ne 0 ]; then
    for _ in {1..450}; do # 90 seconds
      kill -0 -- "-${child}" 2>/dev/null || break
      sleep 0.2
    done
    kill -s KILL -- "-${child}" 2>/dev/null || true
  fi
  child=
  [ "${asked}" -eq 0 ] || exit $((128 + asked))
  return "${status}"
}

wespeaker_qm() { # run a subcommand; its log lines also go to <experiment>/log/<subcommand>.log
  local folder=$1
  shift
  at_work "${PYTHON}" -m wespeaker_qm.bin.main "$@" --log "${folder}/log/$1.log"
}

wespeaker_qm_distributed() { # the same in num_nodes * num_processes processes
  local folder=$1 rendezvous=(--standalone)
  shift
  if [ "${num_nodes}" -gt 1 ]; then
    rendezvous=(--nnodes "${num_nodes}" --rdzv_backend c10d --rdzv_endpoint "${HOST_NODE_ADDR}" --rdzv_id "${job_id}")
  fi
  at_work "${PYTHON}" -m wespeaker_qm.train.launch "${rendezvous[@]}" --nproc_per_node "${num_processes}" \
    --max_restarts "${max_restarts}" -m -- wespeaker_qm.bin.main "$@" --log "${folder}/log/$1.log" # after -- torchrun does not take --log for its own
}

train_and_evaluate() { # stages 3 to 8 with loss overlay $1 (may be empty) into $2
  local loss=$1 dir=$2 launch=wespeaker_qm system baselines
  if wants 3; then
    begin "${dir}" "Stage 3" "train ${dir} (${config}${loss:+ ${loss}}${overrides:+ ${overrides}})"
    if [ "${num_nodes}" -gt 1 ] || [ "${num_processes}" -gt 1 ]; then
      launch=wespeaker_qm_distributed
    fi
    "${is_first}" || await_first_machine
    "${launch}" "${dir}" train --data "${data}" --exp_dir "${dir}" --resume "${resume}" \
      --allow_world_size_change "${allow_world_size_change}" \
      --config "${config_files[@]}" ${loss:+"${loss}"} --set ${override_list[@]+"${override_list[@]}"}
  fi
  if wants 4; then
    if [ -n "${model}" ]; then
      begin "${dir}" "Stage 4" "extract embeddings of ${model} and of the baselines"
    else
      begin "${dir}" "Stage 4" "average checkpoints and extract embeddings of ${dir} and of the baselines"
      wespeaker_qm "${dir}" average --data "${data}" --exp_dir "${dir}"
    fi
    wespeaker_qm "${dir}" extract "${extracting[@]}" --exp_dir "${dir}" ${model:+--model "${model}"}
    wespeaker_qm "${dir}" extract "${extracting[@]}" --exp_dir "${dir}" --untrained --shared "${exp_root}/baselines"
    wespeaker_qm "${dir}" extract "${extracting[@]}" --exp_dir "${dir}" --initial --shared "${exp_root}/baselines"
    wespeaker_qm "${dir}" extract "${extracting[@]}" --exp_dir "${exp_root}/ltas" --ltas
  fi
  baselines=("untrained=${dir}/untrained" "ltas=${exp_root}/ltas")
  if [ -d "${dir}/initial" ]; then
    baselines=("initial=${dir}/initial" "${baselines[@]}")
  fi
  if wants 5; then
    begin "${dir}" "Stage 5" "score ${dir}"
    for system in "${dir}" "${baselines[@]#*=}"; do
      wespeaker_qm "${dir}" score --data "${data}" --exp_dir "${system}"
    done
  fi
  if wants 6; then
    begin "${dir}" "Stage 6" "normalise the scores of ${dir} (${score_norm_method})"
    wespeaker_qm "${dir}" normalise --data "${data}" --exp_dir "${dir}" --method "${score_norm_method}" \
      ${top_n:+--top_n "${top_n}"}
  fi
  if wants 7; then
    begin "${dir}" "Stage 7" "calibrate the scores of ${dir}"
    wespeaker_qm "${dir}" calibrate --data "${data}" --exp_dir "${dir}" --scores "${score_norm_method}" \
      ${top_n:+--top_n "${top_n}"}
  fi
  if wants evaluation; then
    begin "${dir}" "Evaluation" "of ${dir}"
    wespeaker_qm "${dir}" evaluate --data "${data}" --exp_dir "${dir}" --num_resamples "${num_resamples}" \
      "${baselines[@]/#/--baseline=}"
    wespeaker_qm "${dir}" report --data "${data}" --exp_dir "${dir}"
    finish
    announce "Report: ${dir}/report.html, ${dir}/report.md"
  fi
  if wants 8; then
    begin "${dir}" "Stage 8" "export the model of ${dir}"
    wespeaker_qm "${dir}" export --data "${data}" --exp_dir "${dir}" --num_resamples "${num_resamples}"
    finish
    announce "Model: ${dir}/model (wespeaker-qm verify a.wav b.wav)"
  fi
}

if wants 1; then
  begin "${exp_root}" "Stage 1" "prepare ${corpus} in ${data}"
  wespeaker_qm "${exp_root}" prepare --corpus "${corpus}" --data "${data}" --num_workers "${num_workers}" \
    ${prepare_list[@]+"${prepare_list[@]}"}
fi

if wants 2; then
  begin "${exp_root}" "Stage 2" "pack the audio of ${data} into shards"
  wespeaker_qm "${exp_root}" pack --data "${data}" --num_workers "${num_workers}" ${codec:+--codec "${codec}"} \
    ${pack_list[@]+"${pack_list[@]}"}
fi

if [ "${table5}" = false ]; then
  train_and_evaluate "${loss}" "${exp_dir:-${exp_root}/$(basename "${loss:-${config_files[-1]}}" .yaml)}"
else
  losses=$("${PYTHON}" -m wespeaker_qm.bin.main table5 --list_losses true)
  for loss in ${losses}; do
    train_and_evaluate "${loss}" "${exp_root}/$(basename "${loss}" .yaml)"
  done
  if wants evaluation; then
    wespeaker_qm "${exp_root}" table5 --data "${data}" --exp_root "${exp_root}" --table conf/table5.yaml \
      --num_resamples "${num_resamples}"
    wespeaker_qm "${exp_root}" report --data "${data}" --exp_root "${exp_root}"
    announce "Report: ${exp_root}/report.html, ${exp_root}/table5.md"
  fi
fi
finish
announce "Done"
