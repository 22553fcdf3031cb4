{{/* Labels that select Berth's Pods. They must never change. */}}
{{- define "berth.selector" -}}
app.kubernetes.io/name: berth
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "berth.labels" -}}
{{ include "berth.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Image of a command: (list . "provisioner"). */}}
{{- define "berth.image" -}}
{{- $root := index . 0 -}}
{{- $registry := required "image.registry is required: where you pushed the images provisioner and webhook (see deploy/Dockerfile), such as ghcr.io/berth-dev/berth" $root.Values.image.registry -}}
{{ $registry }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{/* 90 % of a memory limit as GOMEMLIMIT, so that the collector works harder before the kernel kills. */}}
{{- define "berth.goMemLimit" -}}
{{- $mi := regexFind "^[0-9]+" . | int64 -}}
{{- if hasSuffix "Gi" . }}{{ $mi = mul $mi 1024 }}{{ end -}}
{{ div (mul $mi 90) 100 }}MiB
{{- end }}

{{/* Restricted Pod Security, with nothing writable. */}}
{{- define "berth.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Probes of a container: the port that serves /healthz and /readyz. */}}
{{- define "berth.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 45
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Where a process listens for scrapers: everywhere when exposed, else inside the Pod. */}}
{{- define "berth.metricsHost" -}}
{{ if not .Values.metrics.expose }}127.0.0.1{{ end }}
{{- end }}

{{/* Has cert-manager's cainjector write caBundle. */}}
{{- define "berth.injectCA" -}}
{{- if eq .Values.webhook.certMode "cert-manager" -}}
annotations:
  cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/berth-webhook
{{- end }}
{{- end }}
