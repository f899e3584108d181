{{- define "likeness.workerLabels" -}}
{{- /* root, name, worker */ -}}
{{ include "likeness.labels" .root }}
app.kubernetes.io/component: {{ .name }}
likeness.io/worker: "true"
{{- if .worker.group }}
likeness.io/group: "true"
{{- end }}
{{- end }}

{{- define "likeness.workerPod" -}}
{{- /* root, name, worker */ -}}
{{- $values := .root.Values }}
{{- $release := .root.Release.Name }}
{{- $drain := .worker.drainSeconds | default 60 | int }}
{{- $gpus := .worker.gpus | default 0 | int }}
{{- $tag := $values.image.tag | default .root.Chart.AppVersion }}
{{- $cuda := $values.image.cudaTag | default (printf "%s-cuda" $tag) }}
metadata:
  labels:
    {{- include "likeness.workerLabels" . | nindent 4 }}
  annotations:
    checksum/settings: {{ include "likeness.settings" .root | sha256sum }}
spec:
  serviceAccountName: {{ $release }}-worker
  automountServiceAccountToken: false
  # What goes on within drain_seconds, a checkpoint and its upload with it; then tasks are given back (2 s), and some to spare.
  terminationGracePeriodSeconds: {{ add $drain 60 }}
  securityContext:
    {{- include "likeness.podSecurity" .root | nindent 4 }}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - {name: {{ . }}}
    {{- end }}
  {{- end }}
  {{- $selector := .worker.nodeSelector | default dict }}
  {{- if $gpus }}{{ $selector = merge (dict "nvidia.com/gpu.present" "true") $selector }}{{ end }}
  {{- with $selector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  {{- $tolerations := .worker.tolerations | default list }}
  {{- if $gpus }}{{ $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}{{ end }}
  {{- with $tolerations }}
  tolerations: {{ toJson . }}
  {{- end }}
  {{- if eq $values.bucket.kind "folder" }}
  # A volume of one node: those who share it are there.
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "likeness.labels" .root | nindent 14 }}
              app.kubernetes.io/component: coordinator
  {{- end }}
  containers:
    - name: {{ .worker.role }}
      image: {{ $values.image.repository }}:{{ gt $gpus 0 | ternary $cuda $tag }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - {{ .worker.role }}
        - --config
        - /etc/likeness/likeness.toml
        - --state
        - /var/lib/likeness
        - --server
        - https://{{ $release }}-coordinator:7431
      env:
        - {name: LIKENESS__TLS_CA, value: /etc/likeness/server-ca/tls.crt}
        - {name: LIKENESS__DRAIN_SECONDS, value: {{ $drain | quote }}}
        - {name: LIKENESS__MODEL_CACHE, value: /var/lib/likeness/models}
        - {name: LIKENESS__TLS_CLIENT_CERT, value: /etc/likeness/identity/tls.crt}
        - {name: LIKENESS__TLS_CLIENT_KEY, value: /etc/likeness/identity/tls.key}
        {{- if .worker.group }}
        # The group's nodes know each other by the same certificates.
        - {name: LIKENESS__TLS_CLIENT_CA, value: /etc/likeness/worker-ca/tls.crt}
        - {name: LIKENESS__TRUST_DOMAIN, value: {{ $values.trustDomain }}}
        {{- end }}
        {{- with .worker.slots }}
        - {name: LIKENESS__{{ upper $.worker.role }}_SLOTS, value: {{ . | quote }}}
        {{- end }}
        {{- if $gpus }}
        - {name: LIKENESS__DEVICE, value: cuda}
        - {name: LIKENESS__PRECISION, value: {{ .worker.precision | default "bf16" }}}
        {{- if and (eq .worker.role "trainer") (gt $gpus 1) }}
        - {name: LIKENESS__RANKS, value: {{ $gpus | quote }}}
        {{- end }}
        {{- end }}
        {{- with $values.model.path }}
        - {name: LIKENESS__MODEL, value: {{ . }}}
        {{- end }}
        {{- range $variable, $value := .worker.env }}
        - {name: {{ $variable }}, value: {{ $value | quote }}}
        {{- end }}
        {{- include "likeness.bucketKey" .root | trim | nindent 8 }}
      ports:
        {{- if .worker.group }}
        - {name: group, containerPort: 7432}
        {{- end }}
        {{- include "likeness.ports" .root | nindent 8 }}
      {{- include "likeness.probes" 180 | nindent 6 }}
      securityContext:
        {{- include "likeness.containerSecurity" .root | nindent 8 }}
      {{- $resources := deepCopy .worker.resources }}
      {{- if $gpus }}{{ $_ := set $resources.limits "nvidia.com/gpu" $gpus }}{{ end }}
      resources: {{ toJson $resources }}
      volumeMounts:
        - {name: settings, mountPath: /etc/likeness/likeness.toml, subPath: likeness.toml, readOnly: true}
        - {name: server-ca, mountPath: /etc/likeness/server-ca, readOnly: true}
        - {name: identity, mountPath: /etc/likeness/identity, readOnly: true}
        {{- if .worker.group }}
        - {name: worker-ca, mountPath: /etc/likeness/worker-ca, readOnly: true}
        {{- end }}
        - {name: state, mountPath: /var/lib/likeness}
        {{- if eq $values.bucket.kind "folder" }}
        - {name: bucket, mountPath: /var/lib/likeness/bucket, subPath: bucket}
        {{- end }}
        {{- if $values.model.claim }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: settings
      configMap: {name: {{ $release }}-settings}
    - name: server-ca
      secret:
        secretName: {{ $release }}-server-ca
        items: [{key: tls.crt, path: tls.crt}]
    # A certificate and key of this pod alone, which name it: two workers of one name would take each other's leases.
    - name: identity
      csi:
        driver: csi.cert-manager.io
        readOnly: true
        volumeAttributes:
          csi.cert-manager.io/issuer-name: {{ $release }}-worker-ca
          csi.cert-manager.io/issuer-kind: Issuer
          csi.cert-manager.io/uri-sans: spiffe://{{ $values.trustDomain }}/likeness/{{ .worker.role }}/${POD_NAME}
          {{- if .worker.group }}
          # The host that the others find it by where it leads.
          csi.cert-manager.io/dns-names: ${POD_NAME}.{{ $release }}-{{ .name }}.${POD_NAMESPACE}
          {{- end }}
          csi.cert-manager.io/key-usages: client auth{{ if .worker.group }},server auth{{ end }}
          csi.cert-manager.io/duration: 2160h
          csi.cert-manager.io/fs-group: "65532"
    {{- if .worker.group }}
    - name: worker-ca
      secret:
        secretName: {{ $release }}-worker-ca
        items: [{key: tls.crt, path: tls.crt}]
    {{- end }}
    {{- if eq $values.bucket.kind "folder" }}
    - name: bucket
      persistentVolumeClaim: {claimName: {{ $release }}-state}
    {{- end }}
    {{- with $values.model.claim }}
    - name: models
      persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
    {{- end }}
    # Prepared weights, as large as the model's, so that a container that is started again is ready in seconds.
    - name: state
      emptyDir: {sizeLimit: 20Gi}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    # The usual 64 MiB are too few for ranks that share memory.
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .worker.sharedMemory | default "1Gi" }}}
{{- end }}
