{{- define "likeness.labels" -}}
app.kubernetes.io/name: likeness
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "likeness.metadata" -}}
{{- /* root, name, component */ -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "likeness.labels" .root | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
{{- end }}

{{- define "likeness.settings" -}}
{{- $settings := mustMergeOverwrite (dict "health_listen" "0.0.0.0:7433" "metrics_listen" "0.0.0.0:9464") (deepCopy .Values.settings) -}}
{{- if eq .Values.bucket.kind "s3" }}
{{- $_ := set $settings "bucket" .Values.bucket.url }}
{{- $_ := set $settings "bucket_region" .Values.bucket.region }}
{{- with .Values.bucket.endpoint }}{{ $_ := set $settings "bucket_endpoint" . }}{{ end }}
{{- else }}
{{- $_ := set $settings "bucket" "file:///var/lib/likeness/bucket" }}
{{- end }}
{{- with .Values.otlp.traces }}{{ $_ := set $settings "tracing_otlp_endpoint" . }}{{ end }}
{{- with .Values.otlp.metrics }}{{ $_ := set $settings "metrics_otlp_endpoint" . }}{{ end }}
{{- if or .Values.otlp.traces .Values.otlp.metrics }}
{{- $_ := set $settings "otlp_protocol" .Values.otlp.protocol }}
{{- end }}
{{- range $name, $value := $settings }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- end }}

{{- define "likeness.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "likeness.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "likeness.probes" -}}
{{- /* failures of startup */ -}}
startupProbe:
  grpc: {port: 7433, service: readiness}
  periodSeconds: 5
  failureThreshold: {{ . }}
livenessProbe:
  grpc: {port: 7433, service: liveness}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 8
readinessProbe:
  grpc: {port: 7433, service: readiness}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{- define "likeness.bucketKey" -}}
{{- if eq .Values.bucket.kind "s3" }}
- name: LIKENESS__BUCKET_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ .Values.bucket.secret.name }}, key: {{ .Values.bucket.secret.idKey }}}
- name: LIKENESS__BUCKET_SECRET
  valueFrom:
    secretKeyRef: {name: {{ .Values.bucket.secret.name }}, key: {{ .Values.bucket.secret.secretKey }}}
{{- end }}
{{- end }}

{{- define "likeness.ports" -}}
- {name: health, containerPort: 7433}
- {name: metrics, containerPort: 9464}
{{- end }}
